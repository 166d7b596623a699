"""`serve run serve.app:build model=DIR` or `serve deploy serve/config.yaml`: the application from its arguments."""

from __future__ import annotations

from typing import Any

import click
from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from frozenseg.errors import UserInputError
from frozenseg.inference.loading import model_folder
from frozenseg.model import read_spec
from serve.ingress import Ingress
from serve.parts import Decoder, Encoders, SamMaskMaker
from serve.settings import Scaling, settings_from

CONCURRENT_PER_REPLICA = 32
"""Requests that a replica of a part may hold at once: batches of encoders form only from what is already there."""


class ServeArgumentsError(UserInputError, click.ClickException):
    """Also an error of click, so that `serve run` ends with its one line."""

    def __init__(self, message: str) -> None:
        click.ClickException.__init__(self, message)


def build(arguments: dict[str, Any]) -> Application:
    """The composition: ingress → encoders → SAM's masks → decoder.

    Raises:
        ServeArgumentsError: an unknown argument, a wrong value, or a model folder that cannot be read; nothing is
            deployed.
    """
    try:
        settings = settings_from(arguments)
        read_spec(model_folder(settings.model))
    except UserInputError as error:
        raise ServeArgumentsError(str(error)) from error
    encoders = Encoders.options(**_options(settings.encoders, CONCURRENT_PER_REPLICA)).bind(settings)
    sam_masks = SamMaskMaker.options(**_options(settings.sam_masks, 4)).bind(settings)
    decoder = Decoder.options(**_options(settings.decoder, 4)).bind(settings)
    ingress = Ingress.options(
        **_options(settings.ingress, 4 * settings.limits.in_flight), max_queued_requests=settings.limits.in_flight
    )
    return ingress.bind(settings, encoders, sam_masks, decoder)


def _options(scaling: Scaling, max_ongoing: int) -> dict[str, Any]:
    """Serve's options of one part."""
    actor = {"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus}
    options: dict[str, Any] = {
        "ray_actor_options": actor,
        "max_ongoing_requests": max_ongoing,
        "graceful_shutdown_timeout_s": 30.0,
        "health_check_period_s": 30.0,
        "health_check_timeout_s": 60.0,
    }
    if scaling.max_replicas > scaling.min_replicas:
        options["autoscaling_config"] = AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            target_ongoing_requests=max(1, max_ongoing // 2),
        )
    else:
        options["num_replicas"] = scaling.min_replicas
    return options
