"""The registered model as a text generator. MLflow runs this file from the folder of the model (models from code)."""

import secrets
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from troupe.bundles.architectures import load_bundle
from troupe.decoding import Decoding, generate
from troupe.errors import ArtifactError, ParamsError
from troupe.registry.request import EXAMPLE_PARAMS, FRESH, MOST_TOKENS
from troupe.seeding import derive_seed


class TextGenerator(PythonModel):
    """Texts that continue prompts.

    `predict(["prompt", ...], params={...})` returns one string per prompt: the prompt and `max_new_tokens` tokens after
    it, drawn with `temperature`, `top_k` (0: all), `top_p` and `min_p`, or fewer where the model ends the text with its
    tokenizer's `end_id`. One `seed` gives one answer; -1, the default, a fresh one. A prompt longer than the model's
    context is continued from its end.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle. Raises ArtifactError if its weights are not the ones that were registered."""
        self.bundle = load_bundle(Path(context.artifacts["bundle"]))
        registered = context.model_config["weights_sha256"]
        if self.bundle.sha256 != registered:
            raise ArtifactError(f"the model has sha256 {self.bundle.sha256[:12]}, not {registered[:12]} as registered")

    def predict(
        self, context: PythonModelContext, model_input: list[str], params: dict[str, Any] | None = None
    ) -> list[str]:
        """See the class. A value out of range or an empty prompt is a bad request, named in the answer."""
        chosen = EXAMPLE_PARAMS | (params or {})
        try:
            decoding = Decoding(
                temperature=chosen["temperature"],
                top_k=chosen["top_k"] or None,
                top_p=chosen["top_p"],
                min_p=chosen["min_p"],
            )
            return [self._continue(prompt, number, chosen, decoding) for number, prompt in enumerate(model_input)]
        except ParamsError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None

    def _continue(self, prompt: str, number: int, chosen: dict[str, Any], decoding: Decoding) -> str:
        n_new, seed = int(chosen["max_new_tokens"]), int(chosen["seed"])
        if not prompt:
            raise ParamsError("the prompt is empty; give at least one character")
        if not 1 <= n_new <= MOST_TOKENS:
            raise ParamsError(f"max_new_tokens must be from 1 to {MOST_TOKENS}, got {n_new}")
        ids_1T = torch.tensor([self.bundle.tokenizer.encode(prompt)])
        seeds = [derive_seed(secrets.randbits(63) if seed == FRESH else seed, "serve", number)]
        end_id = self.bundle.tokenizer.end_id
        made_1T = generate(self.bundle.model, ids_1T, n_new, decoding, seeds, end_id)[:, ids_1T.size(1) :]
        return prompt + self.bundle.tokenizer.decode(takewhile(lambda token: token != end_id, made_1T[0].tolist()))


set_model(TextGenerator())  # how MLflow finds the model in this file; the one thing it does when it is imported
