"""``p06bs process`` and ``p06bs replay``: what can be done with recorded runs."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p06bs.cli.errors import UsageError, one_line
from p06bs.cli.keys import KEYS_VARIABLE
from p06bs.cli.modalities import InputPairs, SettingPairs, complete_modality
from p06bs.cli.runs import LogPath, RunOption, complete_run, runs_of
from p06bs.cli.server import (
    DEFAULT_KEY_FILE,
    DEFAULT_SERVER,
    KeyFileOption,
    ServerOption,
    connect,
)
from p06bs.cli.terminal import SHOWN, AsJson, print_json, progress_bar, remark, show_result

if TYPE_CHECKING:
    from p06bs.config import PipelineSection
    from p06bs.recorded import Runs


def process(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="uid (or its beginning) of a run in --log or on --server; or a run's log file, "
            "or a directory of logs",
        ),
    ],
    modality: Annotated[
        str,
        typer.Option(
            help="name of a modality (p06bs modalities), or module:Class, or of a pipeline in "
            "--file; that of --like if absent",
            autocompletion=complete_modality,
        ),
    ] = "",
    settings: SettingPairs = [],
    inputs: InputPairs = [],
    run: RunOption = "",
    like: Annotated[
        str,
        typer.Option(
            help="derived run in the same place to make again: its raw run, modality, inputs "
            "and settings history, except for what other options say",
            autocompletion=complete_run,
        ),
    ] = "",
    after: Annotated[
        list[str],
        typer.Option(
            help="recorded derived run of RUN that may feed inputs, by its uid or its pipeline's "
            "name; one of --file is computed if it has made none; repeatable; by default any "
            "that makes what RUN lacks"
        ),
    ] = [],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="configuration whose pipelines --modality and --after may name"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="directory for the derived log and NeXus file")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="keep the derived run where the raw run is")
    ] = False,
    log: Annotated[Path, typer.Option(help="directory of logs to look for a uid in")] = Path(
        "var/log"
    ),
    server: ServerOption = "",
    api_key_file: KeyFileOption = DEFAULT_KEY_FILE,
    batch_size: Annotated[int, typer.Option(min=1, help="events per batch")] = 256,
    as_json: AsJson = False,
) -> None:
    """Compute a modality on recorded runs, with the same code and numbers as online.

    A uid is looked for in the directory of logs, and then on the server; with --server
    on the server only.
    """
    from p06bs import config
    from p06bs.bus.reader import LogError
    from p06bs.model.binding import BindingError
    from p06bs.offline import Like, process_run
    from p06bs.recorded import StoredError
    from p06bs.services.pipelines import declared

    runs, uids = _chosen(source, run, like, log, server, api_key_file)
    with closing(runs):
        made = config.parse_settings(settings)
        bindings = {k: str(v) for k, v in config.parse_settings(inputs).items()}
        history: list[tuple[str, dict[str, Any]]] = []
        reprocessing, rows = 0, None
        if like:
            same = Like.of(runs.documents(runs.find(like)))
            history = [(uid, {**changed, **made}) for uid, changed in same.history]
            made = {**same.settings, **made}
            bindings = {**same.inputs, **bindings}
            modality = modality or same.modality
            reprocessing, rows = same.reprocessing, same.rows
            uids = uids or [same.raw]
            after = after or same.upstream
        if not modality:
            raise UsageError("say which modality with --modality, or which derived run with --like")
        configured = {} if file is None else _pipelines(file)
        pipeline = ""
        perhaps: tuple[str, ...] = ()
        if modality in configured and not like:
            section = configured[modality]
            made, bindings = {**section.settings, **made}, {**section.inputs, **bindings}
            pipeline, perhaps, modality = modality, section.after, section.modality
        chosen = config.make_modality(modality, made, bindings)
        results = []
        damaged = done = 0
        with progress_bar() as progress:
            for uid in progress.track(uids, description=chosen.name):
                try:
                    result = process_run(
                        chosen,
                        runs,
                        uid,
                        history=history,
                        out=out,
                        keep=store,
                        batch_size=batch_size,
                        reprocessing=reprocessing,
                        rows=rows,
                        after=after,
                        perhaps=perhaps,
                        configured={n: partial(declared, s) for n, s in configured.items()},
                        pipeline=pipeline,
                    )
                except (BindingError, LogError, FileExistsError, StoredError) as reason:
                    if len(uids) == 1:
                        raise
                    damaged += isinstance(reason, LogError)
                    done += isinstance(reason, FileExistsError | StoredError)
                    remark(f"run {uid} left out: {one_line(reason)}")
                else:
                    results.append(result)
        if results or done:
            print_json(results, indent=2) if as_json else _show(results)
        _complain_of(damaged, uids, done)
        if not (results or done):
            raise UsageError(f"no run in {source} has what {chosen.name} needs")


def _show(results: list[dict[str, Any]]) -> None:
    for result in results:
        show_result(result)
        for said in result["remarks"]:
            remark(f"run {result['raw'][:SHOWN]}: {said}")


def _pipelines(file: Path) -> dict[str, "PipelineSection"]:
    """Return the pipelines of a configuration by their names, of whatever service."""
    from p06bs import config
    from p06bs.services.pipelines import sections

    return sections(config.definitions(config.load(file)).values())


def _chosen(
    source: str, run: str, like: str, log: Path, server: str, key_file: Path
) -> tuple["Runs", list[str]]:
    """Return where recorded runs are, and which; none where --like will say."""
    from p06bs.bus.reader import SUFFIX
    from p06bs.recorded import LogDirectory, RunError

    path = Path(source)
    if server and not path.exists():
        return _found(connect(server, key_file), source)
    if path.exists() or "/" in source or path.suffix == SUFFIX:
        if like and not run and path.is_dir():
            return LogDirectory(path), []
        directory, uids = runs_of(path, run)
        return LogDirectory(directory), uids
    missing = f"{log} does not exist"
    if log.is_dir():
        try:
            return _found(LogDirectory(log), source)
        except RunError as reason:
            missing = str(reason)
    try:
        return _found(connect(DEFAULT_SERVER, key_file), source)
    except (RunError, UsageError) as reason:  # the latter where there is no key
        raise UsageError(f"{missing}; {reason}") from reason


def _found(runs: "Runs", beginning: str) -> tuple["Runs", list[str]]:
    try:
        return runs, [runs.find(beginning)]
    except Exception:
        runs.close()
        raise


def replay(
    log: LogPath,
    address: Annotated[
        str, typer.Option(help="where the proxy takes documents")
    ] = "tcp://127.0.0.1:5567",
    to: Annotated[Path, typer.Option(help="log directory to publish through")] = Path("var/log"),
    keys: Annotated[
        Path | None,
        typer.Option(help="directory of keys, to publish on another host", envvar=KEYS_VARIABLE),
    ] = None,
    run: RunOption = "",
    speed: Annotated[
        float, typer.Option(min=0, help="times real time; 0 is as fast as it goes")
    ] = 0.0,
    keep_uid: Annotated[
        bool, typer.Option(help="keep the run's uid instead of making a new one")
    ] = False,
) -> None:
    """Publish a recorded run's documents again, as a new run."""
    from p06bs import DocumentLog, Keys, Publisher
    from p06bs.bus.reader import LogError
    from p06bs.offline import replayed

    directory, uids = runs_of(log, run)
    damaged = 0
    ours = None if keys is None else Keys(keys)
    with Publisher(address, to, keys=ours) as publish, progress_bar() as progress:
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


def _complain_of(damaged: int, uids: list[str], done: int = 0) -> None:
    if done:
        remark(f"{done} of {len(uids)} runs had been computed before")
    if damaged:
        raise UsageError(f"{damaged} of {len(uids)} runs could not be read")
