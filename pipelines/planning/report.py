"""A plan in words."""

from __future__ import annotations

from pipelines.planning.predict import Plan, Workload

_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"))


def describe_plan(plan: Plan, work: Workload) -> str:
    """A few lines, the stages with their bounds from the slowest to the fastest."""
    pool = f"{plan.num_encoders} encoder actors, " if plan.num_encoders else ""
    lines = [
        f"mode {plan.mode}: {pool}{plan.num_trainers} trainers",
        f"{plan.images_per_s:,.1f} images/s, bounded by: {plan.bottleneck}",
        f"{work.num_steps:,} steps of {work.batch_size}, {work.num_samples / max(1, work.num_images):.1f} epochs of "
        f"{work.num_images:,} images: {plan.hours:,.1f} hours, cost {plan.cost:,.0f}",
        f"features over the network: {bytes_text(plan.moved_bytes)}; kept in the cache: "
        f"{bytes_text(plan.stored_bytes)}; trainers wait {100 * plan.idle_share:.0f} % of the time",
        "each stage alone would allow, in images/s: "
        + ", ".join(f"{name} {value:,.1f}" for name, value in plan.bounds),
    ]
    return "\n".join(lines)


def bytes_text(count: float) -> str:
    """`1.5 TB`; units of 1000."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"
