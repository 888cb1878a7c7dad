"""corpus: one verified UTF-8 text with its manifest and split. Reads the source and artifacts/source.json."""

from troupe.data.corpus import Source, write_corpus
from troupe.data.source import read_pieces
from troupe.files import read_json
from troupe.layout import CORPUS, SOURCE
from troupe.params import Params
from troupe.progress import with_progress
from troupe.stages.common import stage_main


def corpus(params: Params) -> None:
    """Write artifacts/corpus, provided that the source still holds the text that was digested."""
    source = Source(**read_json(SOURCE))
    pieces = with_progress("corpus", read_pieces(params.data.source), source.bytes)
    write_corpus(CORPUS, pieces, params.data.source, source, params.data.block_bytes)


if __name__ == "__main__":
    stage_main("corpus", corpus)
