"""Tell of which run a document is, where several runs come at once."""

from p06bs.model.documents import Document


class Belonging:
    """Know by which uids the documents of a run name each other."""

    def __init__(self) -> None:
        self._owner: dict[str, str] = {}

    def run_of(self, name: str, document: Document) -> str:
        """Return the uid of a document's run, "" if it does not say or its run is unknown."""
        if name == "start":
            return str(document["uid"])
        if "run_start" in document:
            return str(document["run_start"])
        if name == "stream_resource":  # the schema lets run_start be absent
            return self._owner.get(document["uid"], "")
        return self._owner.get(document.get("descriptor", document.get("resource", "")), "")

    def note(self, run: str, name: str, document: Document) -> None:
        """Take note of what further documents of a run may name."""
        if name in ("descriptor", "resource"):
            self._owner[document["uid"]] = run
        elif name == "stream_datum":
            self._owner[document["stream_resource"]] = run

    def forget(self, run: str) -> None:
        """Forget a run that is over."""
        self._owner = {uid: owner for uid, owner in self._owner.items() if owner != run}
