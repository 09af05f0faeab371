"""Derived runs that feed one which is processed offline: recorded ones, else computed ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from p06bs.model.candidates import candidates
from p06bs.model.documents import (
    Document,
    NamedDocument,
    goes_with_scan,
    is_snapshots,
    pipeline_of,
)
from p06bs.model.modality import Modality
from p06bs.pipeline.declared import Pipeline, fed_by
from p06bs.pipeline.inline import process
from p06bs.recorded import RunError, Runs

Configured = Mapping[str, Callable[[], Pipeline]]
"""Name -> what makes the pipeline that a configuration file declares by it."""


@dataclass
class UpstreamRuns:
    """What feeds a derived run beside its raw run.

    Attributes
    ----------
    made : list of documents
        Derived runs, each by its documents.
    computed : list of documents
        Those of them that are not recorded, in the order in which they were computed.
    remarks : list of str
        What there is to say about it.
    """

    made: list[list[NamedDocument]] = field(default_factory=list)
    computed: list[list[NamedDocument]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def documents(self) -> list[NamedDocument]:
        """Documents of all of them, one run after the other."""
        return [document for run in self.made for document in run]

    @property
    def names(self) -> set[str]:
        """Names of the pipelines that have made them."""
        return {pipeline_of(run[0][1]) for run in self.made}


class DerivedRuns:
    """The recorded derived runs of one raw run, and those that a configuration can make.

    Parameters
    ----------
    runs : Runs
    uid : str
        Of the raw run.
    configured : mapping
        The pipelines that may be computed where they have made no derived run of it.
    """

    def __init__(self, runs: Runs, uid: str, configured: Configured) -> None:
        self._runs = runs
        self._uid = uid
        self._configured = configured
        self._starts: dict[str, Document] | None = None

    @property
    def starts(self) -> Mapping[str, Document]:
        """Start documents by uid."""
        if self._starts is None:
            known = self._runs.derived(self._uid)
            self._starts = {run: next(iter(self._runs.documents(run)))[1] for run in known}
        return self._starts

    def named(
        self, modality: Modality, after: Sequence[str], perhaps: Sequence[str] = ()
    ) -> UpstreamRuns:
        """Return those that somebody has named for a modality; its explicit inputs count, too.

        Parameters
        ----------
        after : sequence of str
            Names of pipelines, or (beginnings of) uids of derived runs. Of a pipeline that has
            made none it is computed, if it is configured.
        perhaps : sequence of str
            Names of pipelines whose derived runs are used if they are there.

        Raises
        ------
        RunError
            If one is neither there nor configured, or a pipeline has made several.
        """
        feeding = UpstreamRuns()
        asked = fed_by(after, modality.inputs)
        for name in dict.fromkeys((*asked, *perhaps)):
            if name in feeding.names:
                continue  # it was named by its uid before
            if (recorded := self._recorded(name)) is not None:
                feeding.made.append(recorded)
            elif name not in asked:
                feeding.remarks.append(
                    f"{name} has made no derived run of it that is recorded; "
                    f"--after {name} computes it"
                )
            elif name in self._configured:
                self._compute(name, feeding)
            else:
                raise RunError(
                    f"no derived run of {self._uid} by {name} is recorded where the raw run is; "
                    f"p06bs process {self._uid} --modality {name} --store makes one, or --file "
                    "says how it is computed on the way"
                )
        return feeding

    def making(self, modality: Modality) -> UpstreamRuns:
        """Return those that make what has the role of one of a modality's inputs.

        Raises
        ------
        RunError
            If a pipeline has made several.
        """
        roles = {wanted.role for wanted in modality.declared.values()}
        names = self.offers(roles)
        return UpstreamRuns([made for name in names if (made := self._recorded(name)) is not None])

    def offers(self, roles: set[str]) -> list[str]:
        """Return the names of the pipelines that have made something of these roles."""
        found = (
            pipeline_of(start)
            for run, start in self.starts.items()
            if goes_with_scan(start) and _roles(self._runs.documents(run)) & roles
        )
        return list(dict.fromkeys(found))

    def _recorded(self, name: str) -> list[NamedDocument] | None:
        """Return the documents of the run that a pipeline has made, or of the one by its uid."""
        starts = self.starts.items()
        whole = [run for run, s in starts if goes_with_scan(s) and pipeline_of(s) == name]
        made = whole or [run for run in self.starts if run.startswith(name)]
        if len(made) > 1:
            several = ", ".join(made)
            raise RunError(
                f"{name} has made {len(made)} derived runs of {self._uid}: {several}; say which"
            )
        return list(self._runs.documents(made[0])) if made else None

    def _compute(self, name: str, feeding: UpstreamRuns) -> None:
        pipeline = self._configured[name]()
        below = self.named(pipeline.modality, pipeline.after)
        made = process(
            pipeline.modality,
            self._runs.documents(self._uid),
            upstream=below.documents,
            pipeline=name,
        )
        feeding.made.append(made)
        feeding.computed += [*below.computed, made]
        feeding.remarks += [
            *below.remarks,
            f"{name} has made no derived run of it that is recorded: computed as configured",
        ]


def _roles(documents: Iterable[NamedDocument]) -> set[str]:
    """Return the roles of what a derived run makes, as its first descriptor of rows says."""
    start: Document = {}
    for name, document in documents:
        if name == "start":
            start = document
        elif name == "descriptor" and not is_snapshots(document):
            return {found.role for found in candidates(start, [document]) if found.role}
    return set()


def unfed(modality: Modality, derived: Document, known: DerivedRuns) -> Iterator[str]:
    """Yield what there is to say about inputs that nothing feeds.

    Parameters
    ----------
    derived : Document
        The derived start document.
    """
    bound = derived["process"]["inputs"]
    empty = {
        name: wanted.role
        for name, wanted in modality.declared.items()
        if name not in bound and modality.inputs.get(name) != ""
    }
    if not empty:
        return
    said = f"nothing feeds {', '.join(empty)}, which {modality.name} can do without"
    offers = known.offers(set(empty.values()))
    if offers:
        options = " ".join(f"--after {name}" for name in offers)
        yield f"{said}; derived runs of it that may are recorded: {options}"
    else:
        yield f"{said}: neither the run nor a derived run of it that is recorded has what fits"
