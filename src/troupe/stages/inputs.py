"""inputs: check params.yaml with this run's overrides, and digest what it names, before any stage deletes anything.

Writes artifacts/params.yaml (the parameters of this run), artifacts/source.json (what data.source holds now),
artifacts/init.json (the weights that pretrain.init_from names now) and artifacts/code.json (a digest of the code of
every stage, by its name).
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from troupe.data.room import check_bytes
from troupe.data.source import describe
from troupe.dependencies import code_digest
from troupe.files import write_json
from troupe.layout import CODE, EFFECTIVE_PARAMS, INITIAL, SOURCE
from troupe.params import Params, dump_params
from troupe.progress import with_progress
from troupe.stages.common import stage_main


def inputs(params: Params) -> None:
    """Write this run's parameters and the digests of source and code; every fault is found before one is written."""
    source = describe(params.data.source, partial(with_progress, "inputs"))
    if source.copies:
        size = f"{source.copies:,} ({source.copied_bytes:,} bytes)"
        print(f"data.source: documents left out because they repeat others: {size}", flush=True)
    check_bytes(source.bytes, params)
    initial = _initial_weights(params, source.sha256)
    dump_params(params, EFFECTIVE_PARAMS)
    write_json(SOURCE, asdict(source))
    write_json(INITIAL, initial)
    stages = [file.stem for file in Path(__file__).parent.glob("[!_]*.py")]
    write_json(CODE, {name: code_digest(f"{__package__}.{name}") for name in stages})


def _initial_weights(params: Params, corpus_sha256: str) -> dict[str, str]:
    if params.pretrain.init_from == "scratch":
        return {"init_from": "scratch"}
    from troupe.bundles import initial  # late: torch, seconds that no other run needs

    found = initial.find_initial(params.pretrain.init_from)
    initial.require_agreement(found, params)
    initial.require_memory(found)
    tokenizer = {"tokenizer_sha256": initial.tokenizer_digest(found)} if params.tokens.kind == "pretrained" else {}
    return found.identity() | tokenizer | {"has_seen": initial.has_seen(found, corpus_sha256, params.data.block_bytes)}


if __name__ == "__main__":
    stage_main("inputs", inputs)
