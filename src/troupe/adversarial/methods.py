"""The adversarial methods by name."""

from collections.abc import Callable, Mapping
from typing import Any

from troupe.adversarial import ddo, distil, gan, tilt
from troupe.adversarial.method import MethodResult, Task

METHODS: Mapping[str, Callable[[Task, Any], MethodResult]] = {
    "tilt": tilt.run,
    "gan": gan.run,
    "ddo": ddo.run,
    "distil": distil.run,
}
