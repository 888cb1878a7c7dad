"""The last words of a run: the figures, the verdict, where things are, what to type next."""

from pipelines.publish import Publication


def summary(publication: Publication) -> str:
    """For a terminal."""
    return f"done: {publication.run.id}"


def markdown(publication: Publication) -> str:
    """For Prefect's page of artifacts."""
    return summary(publication)
