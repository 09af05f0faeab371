"""What goes into the documents of every run beside the scan: `recorder`, `sample(...)`."""

from p06bs.metadata.plain import plain
from p06bs.metadata.recorder import MetadataRecorder
from p06bs.metadata.records import checked

recorder = MetadataRecorder(
    devices.values(),
    missing=missing,
    sources=sources,
    beamtime=Path(BEAMTIME) if BEAMTIME else None,
    settings=analysis.settings_in_force,
)
recorder.install(RE)


def sample(name=None, *, uid=None, elements=(), mount=None, **more):
    """Say what is in the beam, for all scans from now on.

    sample("leaf 3", elements="Fe Zn", mount="pin 7", thickness="30 um", treatment="none")
    sample(mount="pin 8") changes the one that was said last; sample() returns it.
    """
    said = {"name": name, "uid": uid, "elements": elements, "mount": mount}
    said = {key: value for key, value in said.items() if value} | more
    if said:
        last = {} if name else RE.md.get("sample")
        if last is None:
            raise ValueError(f"of which sample? None was said yet: sample(name, {', '.join(said)})")
        last = last if isinstance(last, dict) else {"name": last}
        known, problems = checked(plain({"sample": {**last, **said}}))
        print(*problems, sep="\n", end="\n" if problems else "")
        RE.md["sample"] = known["sample"]
    return RE.md.get("sample", {})
