"""How a simulated detector's files are announced: data keys, stream resources and datums."""

from collections.abc import AsyncIterator

from bluesky.protocols import StreamAsset
from event_model import ComposeStreamResource, ComposeStreamResourceBundle, DataKey
from ophyd_async.core import SignalR, StreamableDataProvider

from p06bs.sim.rows_file import Files

MIMETYPE = "application/x-hdf5"


class RowsProvider(StreamableDataProvider):
    """Announce the rows of `Files`, with units, dims and true shapes.

    Bluesky gives one range of seq_nums to all that one collection brings, so that a
    collection ends where a file does; the next file has the next collection.
    """

    def __init__(self, name: str, files: Files, written: SignalR[int]) -> None:
        self.collections_written_signal = written
        self._name, self._files = name, files
        self._emitted = 0
        self._number = -1
        self._bundles: list[ComposeStreamResourceBundle] = []

    @property
    def _apart(self) -> bool:
        """Whether each file is a stream resource of its own."""
        return self._files.recording.join == "resources"

    def behind(self, rows: int) -> bool:
        """Return whether more than one further collection is needed to announce rows."""
        files = self._files
        return self._apart and files.number(self._emitted) < files.number(max(rows - 1, 0))

    async def make_datakeys(self, collections_per_event: int) -> dict[str, DataKey]:
        """Describe the datasets; axis 0 are the collections of one event."""
        return {
            data_key_of(self._name, key): DataKey(
                source=self._files.path.as_uri(),
                dtype="array",
                dtype_numpy=dataset.dtype,
                shape=[collections_per_event, *dataset.shape],
                dims=["exposure", *dataset.dims],
                units=dataset.unit,
                external="STREAM:",
            )
            for key, dataset in self._files.datasets.items()
        }

    async def make_stream_docs(
        self, collections_written: int, collections_per_event: int
    ) -> AsyncIterator[StreamAsset]:
        """Yield the resources of a file when its first rows come, and ranges of rows."""
        first, stop = self._emitted, collections_written
        number = self._files.number(first) if self._apart else 0
        begin = 0
        if self._apart and self._files.recording.rows_per_file:
            begin = number * self._files.recording.rows_per_file
            stop = min(stop, begin + self._files.recording.rows_per_file)
        if stop <= first:
            return
        if number != self._number:
            self._number = number
            self._bundles = [self._bundle(key, number) for key in self._files.datasets]
            for bundle in self._bundles:
                yield "stream_resource", bundle.stream_resource_doc
        self._emitted = stop
        shift = (self._files.recording.offset if number == 0 else 0) - begin
        for bundle in self._bundles:
            yield (
                "stream_datum",
                bundle.compose_stream_datum({"start": first + shift, "stop": stop + shift}),
            )

    def _bundle(self, key: str, number: int) -> ComposeStreamResourceBundle:
        path = self._files.part(number) if self._apart else self._files.path
        return ComposeStreamResource()(
            mimetype=MIMETYPE,
            uri=path.as_uri().replace("file:///", "file://localhost/"),
            data_key=data_key_of(self._name, key),
            parameters={
                "dataset": f"{self._files.group}/{key}",
                "swmr": True,
                "chunk_shape": self._files.datasets[key].chunk,
            },
        )


def data_key_of(name: str, key: str) -> str:
    """Return the data key of a dataset of the detector `name`."""
    return name if key == "data" else f"{name}-{key}"
