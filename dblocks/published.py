"""Values that other publications give for a table's rows, under the rule that holds for the paper's own."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from dblocks.spec import Part


class Source(Part):
    """Another publication (or one of its columns) whose values stand beside ours."""

    label: str = Field(description="Heading of its columns.")
    dataset: str = Field(description="Data set of its values: they stand only beside results on it.")
    settings: str = Field(description="How they were measured, as far as all rows share it.")


class Published(Part):
    """One row's values in another publication."""

    values: dict[str, float] = Field(description="By metric.")
    settings: str | None = Field(None, description="How this row was run there, where rows differ.")


def beside(
    sources: Mapping[str, Source], published: Mapping[str, Published], metric: str, measured_on: str | None
) -> dict[str, float | None]:
    """A row's published values of `metric` by source; None where there is none, or ours is of another data set."""
    values = {key: published[key].values.get(metric) if key in published else None for key in sources}
    return {key: value if sources[key].dataset == measured_on else None for key, value in values.items()}


def row_settings(
    sources: Mapping[str, Source], rows: Mapping[str, Mapping[str, Published]]
) -> dict[str, dict[str, str]]:
    """For each row, by source: how its values were measured; nothing for a source without any."""
    return {
        row: {
            key: ". ".join(filter(None, (source.settings, there[key].settings)))
            for key, source in sources.items()
            if key in there
        }
        for row, there in rows.items()
    }


def settings_lines(sources: Mapping[str, Source], rows: Mapping[str, Mapping[str, Published]]) -> list[str]:
    """How the values were measured: one line for all sources of which the same is to be said.

    Args:
        rows: the published values by row and source.
    """
    labels: dict[str, list[str]] = {}
    for key, source in sources.items():
        own = [f"{row}: {there[key].settings}" for row, there in rows.items() if key in there and there[key].settings]
        labels.setdefault("; ".join([f"on {source.dataset}: {source.settings}", *own]), []).append(source.label)
    return [f"{', '.join(names)}, {text}" for text, names in labels.items()]
