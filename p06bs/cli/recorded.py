"""``p06bs process`` and ``p06bs replay``: what can be done with recorded runs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from p06bs.cli.errors import UsageError, one_line
from p06bs.cli.modalities import InputPairs, SettingPairs, complete_modality
from p06bs.cli.runs import LogPath, RunOption, complete_run, run_of, runs_of
from p06bs.cli.terminal import AsJson, progress_bar, remark, show_result


def process(
    log: LogPath,
    modality: Annotated[
        str,
        typer.Option(
            help="name of a modality (p06bs modalities), or module:Class; that of --like if absent",
            autocompletion=complete_modality,
        ),
    ] = "",
    settings: SettingPairs = [],
    inputs: InputPairs = [],
    run: RunOption = "",
    like: Annotated[
        str,
        typer.Option(
            help="derived run in the same directory to make again: its raw run, modality, inputs "
            "and settings history, except for what other options say",
            autocompletion=complete_run,
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="directory for the derived log and NeXus file")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="events per batch")] = 256,
    as_json: AsJson = False,
) -> None:
    """Compute a modality on recorded runs, with the same code and numbers as online."""
    from p06bs import config
    from p06bs.bus.reader import LogError
    from p06bs.model.binding import BindingError
    from p06bs.offline import Like, process_run

    made = config.parse_settings(settings)
    bindings = {k: str(v) for k, v in config.parse_settings(inputs).items()}
    history: list[tuple[str, dict[str, Any]]] = []
    reprocessing = 0
    if like:
        directory = log.parent if log.is_file() else log
        same = Like.read(directory, run_of(directory, like))
        history = [(uid, {**changed, **made}) for uid, changed in same.history]
        made = {**same.settings, **made}
        bindings = {**same.inputs, **bindings}
        modality = modality or same.modality
        reprocessing = same.reprocessing
        run = run or same.raw
    if not modality:
        raise UsageError("say which modality with --modality, or which derived run with --like")
    directory, uids = runs_of(log, run)
    chosen = config.make_modality(modality, made, bindings)
    results = []
    damaged = 0
    with progress_bar() as progress:
        for uid in progress.track(uids, description=chosen.name):
            try:
                result = process_run(
                    chosen,
                    directory,
                    uid,
                    history=history,
                    out=out,
                    batch_size=batch_size,
                    reprocessing=reprocessing,
                )
            except (BindingError, LogError) as reason:
                if len(uids) == 1:
                    raise
                damaged += isinstance(reason, LogError)
                remark(f"run {uid} left out: {one_line(reason)}")
            else:
                results.append(result)
    if as_json and results:
        print(json.dumps(results, indent=2))
    for result in results if not as_json else ():
        show_result(result)
    _complain_of(damaged, uids)
    if not results:
        raise UsageError(f"no run in {log} has what {chosen.name} needs")


def replay(
    log: LogPath,
    address: Annotated[
        str, typer.Option(help="where the proxy takes documents")
    ] = "tcp://127.0.0.1:5567",
    to: Annotated[Path, typer.Option(help="log directory to publish through")] = Path("var/log"),
    run: RunOption = "",
    speed: Annotated[
        float, typer.Option(min=0, help="times real time; 0 is as fast as it goes")
    ] = 0.0,
    keep_uid: Annotated[
        bool, typer.Option(help="keep the run's uid instead of making a new one")
    ] = False,
) -> None:
    """Publish a recorded run's documents again, as a new run."""
    from p06bs import DocumentLog, Publisher
    from p06bs.bus.reader import LogError
    from p06bs.offline import replayed

    directory, uids = runs_of(log, run)
    damaged = 0
    with Publisher(address, to) as publish, progress_bar() as progress:
        for uid in uids:
            try:
                documents = list(DocumentLog(directory).read(uid))
            except LogError as reason:
                damaged += 1
                remark(f"run {uid} left out: {one_line(reason)}")
                continue
            task = progress.add_task(f"replay {uid[:8]}", total=len(documents))
            for name, document in replayed(documents, keep_uid=keep_uid, speed=speed):
                publish(name, document)
                progress.advance(task)
                if name == "start":
                    print(document["uid"])
    _complain_of(damaged, uids)


def _complain_of(damaged: int, uids: list[str]) -> None:
    if damaged:
        raise UsageError(f"{damaged} of {len(uids)} runs could not be read")
