"""The main job in miniature from the world to the report, on one Ray session that all steps share."""

from __future__ import annotations

import os
import time
from pathlib import Path

from frozenseg.miniature import full_vocabulary
from frozenseg.vocabulary import format_vocabulary
from pipelines import ray_session
from pipelines.demo.options import DemoOptions
from pipelines.demo.records import StageLog, run_stage, shown_command, write_text
from pipelines.demo.report import ReportData, ServedPicture, StageRecord, render_report
from pipelines.demo.results import held_out_pictures, read_losses, read_metrics, score_rows
from pipelines.demo.serving import ask, free_port, running_server, serve_command, write_serve_config
from pipelines.demo.stages import demo_stages

LOGICAL_CPUS = 8
"""Ray's budget on the demo machine: enough for all parts of a step at once, each of which runs one torch thread."""
NUM_PICTURES = 6
NUM_SERVED = 4


def run_demo(options: DemoOptions) -> Path:
    """Runs every step that has not been run yet and returns the report's path.

    Raises:
        StageFailedError: a step failed; running the demo again goes on from it.
    """
    options.to.mkdir(parents=True, exist_ok=True)
    log = StageLog(options.to)
    stages = demo_stages(options)
    records = []
    todo = [stage for stage in stages if log.find(stage) is None]
    # Every step is a job with workers of its own: those that Ray starts ahead for the first job would never be used.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(4 * LOGICAL_CPUS))
    with ray_session.session((), ray_session.RayOptions(num_cpus=LOGICAL_CPUS)):
        _share_session()
        for number, stage in enumerate(stages, start=1):
            print(f"\n[{number}/{len(stages) + 2}] {stage.name}\n  {shown_command(stage.command)}", flush=True)
            if stage in todo and stage.makes.is_relative_to(options.labels):
                _collect_pictures(options)
            records.append(run_stage(stage, log))
            print(f"  {outcome(records[-1])}", flush=True)
        print(f"\n[{len(stages) + 1}/{len(stages) + 2}] serve the model and ask it over HTTP", flush=True)
        record, served = _serve(options)
        records.append(record)
        print(f"  {outcome(record)}", flush=True)
    print(f"\n[{len(stages) + 2}/{len(stages) + 2}] write the report", flush=True)
    path = options.to / "report.html"
    write_text(path, render_report(_report_data(options, records, served)))
    return path


def _share_session() -> None:
    """The steps are processes of their own; through these variables they join this session instead of starting one."""
    import ray

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def outcome(record: StageRecord) -> str:
    """One line on a step that has ended."""
    if record.resumed:
        return f"was there already (took {record.seconds:.1f} s when it was made)"
    return f"{record.seconds:.1f} s, {record.rate}"


def _collect_pictures(options: DemoOptions) -> None:
    """A folder with held-out pictures and nothing else: a corpus to label."""
    options.pictures.mkdir(exist_ok=True)
    for picture in sorted((options.world / "val").glob("*.jpg"))[: options.label_images]:
        link = options.pictures / picture.name
        if not link.exists():
            link.hardlink_to(picture)


def _serve(options: DemoOptions) -> tuple[StageRecord, tuple[ServedPicture, ...]]:
    config, port = options.to / "serve.yaml", free_port()
    write_serve_config(config, options.model, port)
    command = serve_command(config)
    address = f"http://127.0.0.1:{port}"
    print(f"  {shown_command(command)}   # {address}", flush=True)
    pictures = sorted(options.pictures.glob("*.jpg"))[:NUM_SERVED]
    started = time.monotonic()
    with running_server(command, address, options.to / "serve.log"):
        ready = time.monotonic() - started
        served = ask(address, pictures, format_vocabulary(full_vocabulary()))
    record = StageRecord(
        name=f"serve the model and ask it over HTTP (ready after {ready:.1f} s)",
        command=shown_command(command),
        seconds=time.monotonic() - started,
        items=0,
        unit="images",
    )
    return record, served


def _report_data(options: DemoOptions, records: list[StageRecord], served: tuple[ServedPicture, ...]) -> ReportData:
    trained, untrained = read_metrics(options.evaluation), read_metrics(options.baseline)
    return ReportData(
        title="frozenseg in miniature",
        warnings=(trained["notice"],) if trained["notice"] else (),
        stages=tuple(records),
        scores=score_rows(trained, untrained),
        pictures=held_out_pictures(options.model, options.shards("val"), NUM_PICTURES),
        served=served,
        losses=read_losses(options.to),
        num_evaluated=trained["num_images"],
        next_steps=next_steps(options),
    )


def next_steps(options: DemoOptions) -> tuple[str, ...]:
    """Commands to go on with."""
    picture = next(iter(sorted(options.pictures.glob("*.jpg"))), options.pictures / "IMAGE.jpg")
    return (
        f'frozenseg predict {picture} --model {options.model} --vocabulary "red button; green flag; water(stuff)"',
        f"serve run serve.app:build model={options.model}",
        f"tensorboard --logdir {options.to}",
        "python ray_jobs/train.py --config configs/coco-convnext-large.toml --dry-run",
    )
