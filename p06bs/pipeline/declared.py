"""What is to be computed online: a modality, and how."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from p06bs.model.documents import Document, settings_digest
from p06bs.model.matching import upstream_of
from p06bs.model.modality import Modality
from p06bs.model.revisions import Revision
from p06bs.pipeline.needs import Needs

WAIT = 60.0
"""Seconds for which a pipeline waits by default until the derived run of another one begins."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A modality that is to be computed online.

    Parameters
    ----------
    modality : Modality
    batch_size : int, optional
        Fixed number of events per batch; by default a power of two that follows the backlog.
    name : str
        What the pipeline is called; the modality's name by default.
    overload : "queue" or "thin"
        What happens when workers cannot keep up: results come later; or there is a preview
        of every n-th batch beside, as long as the scan runs.
    needs : Needs
        What a worker must have to get its batches.
    after : sequence of str
        Names of the pipelines, of whatever process, whose derived runs of the same raw run may
        feed inputs. Those that the modality's explicit inputs name are added.
    wait : float
        Seconds from the first event on for which they are waited for until they begin.

    Raises
    ------
    ValueError
        If that cannot be.
    """

    modality: Modality
    batch_size: int | None = None
    name: str = ""
    overload: Literal["queue", "thin"] = "queue"
    needs: Needs = field(default_factory=Needs)
    after: Sequence[str] = ()
    wait: float = WAIT

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.modality.name)
        object.__setattr__(self, "after", fed_by(self.after, self.modality.inputs))
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size of pipeline {self.name} is {self.batch_size}, not >= 1")
        if not self.wait >= 0:
            raise ValueError(f"wait of pipeline {self.name} is {self.wait}, not >= 0")
        if self.overload == "thin" and self.modality.is_stateful:
            raise ValueError(
                f'pipeline {self.name} cannot have overload = "thin": {self.modality.name} carries '
                'state from event to event (scan or fold) and needs all; leave it at "queue"'
            )

    def made(self, process: Document, digest: str) -> bool:
        """Return whether a derived run that says so of its process is this pipeline's.

        `digest` is that of the settings that the pipeline began the run with.
        """
        modality = self.modality
        bound = process["inputs"]
        return (
            process["name"] == modality.name
            and process.get("version") == modality.version
            and process["settings_digest"] == digest
            and not process.get("reprocessing")
            and all(
                (key in _names_of(bound[name]) if name in bound else not key)
                for name, key in modality.inputs.items()
            )
        )

    def makes_what(self, other: "Pipeline", mine: Revision, theirs: Revision) -> bool:
        """Return whether under these settings another pipeline would write the same derived run."""
        return (
            type(self.modality) is type(other.modality)
            and self.modality.inputs == other.modality.inputs
            and mine.digest == theirs.digest
        )


def _names_of(bound: Mapping[str, str]) -> tuple[str, ...]:
    """Return what an explicit input may call what feeds an input, as it is recorded."""
    path = f"{bound['stream']}/{bound['data_key']}"
    return (f"{bound['pipeline']}/{path}",) if "run" in bound else (bound["data_key"], path)


def fed_by(after: Iterable[str], inputs: Mapping[str, str]) -> tuple[str, ...]:
    """Return the pipelines that may feed one, by what it comes after and its explicit inputs."""
    named = (upstream_of(explicit) for explicit in inputs.values())
    return tuple(dict.fromkeys(filter(None, (*after, *named))))


def refuse_cycles(after: Mapping[str, Collection[str]]) -> None:
    """Raise ValueError if pipelines feed each other in a circle.

    Parameters
    ----------
    after : mapping of str to collection of str
        Name of each pipeline -> names of those that may feed it, known or not.
    """
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " after ".join((*path[path.index(name) :], name))
            raise ValueError(f"pipelines wait for each other: {circle}; take one of these away")
        if name not in done:
            for other in after.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in after:
        visit(name, ())


def refuse_twins(pipelines: Sequence[Pipeline]) -> None:
    """Raise ValueError if two pipelines have one name, or would write the same derived run."""
    doubled = [name for name, times in Counter(p.name for p in pipelines).items() if times > 1]
    if doubled:
        raise ValueError(f"two pipelines are called {doubled[0]!r}; give one another name")
    made: dict[tuple[str, ...], str] = {}
    for pipeline in pipelines:
        modality = pipeline.modality
        digest = settings_digest(modality.settings)
        twin = (modality.name, modality.version, digest, *map(str, sorted(modality.inputs.items())))
        if twin in made:
            raise ValueError(
                f"pipelines {made[twin]!r} and {pipeline.name!r} have the same modality, settings "
                "and inputs: they would write one derived run; leave one out"
            )
        made[twin] = pipeline.name
