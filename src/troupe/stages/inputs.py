"""inputs: check params.yaml with this run's overrides, and digest the source text, before any stage deletes anything.

Writes artifacts/params.yaml (the parameters of this run) and artifacts/source.json (what data.source holds now).
"""

from dataclasses import asdict

from troupe.data.corpus import check_size
from troupe.data.source import describe
from troupe.files import write_json
from troupe.layout import EFFECTIVE_PARAMS, SOURCE
from troupe.params import Params, dump_params
from troupe.stages.common import stage_main


def inputs(params: Params) -> None:
    """Write this run's parameters and the digest of its source; every fault is found before either is written."""
    source = describe(params.data.source)
    check_size(source.bytes, params.data.block_bytes)
    dump_params(params, EFFECTIVE_PARAMS)
    write_json(SOURCE, asdict(source))


if __name__ == "__main__":
    stage_main("inputs", inputs)
