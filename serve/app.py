"""`serve run serve.app:build model=DIR` or `serve deploy serve/config.yaml`: the application from its arguments."""

from __future__ import annotations

from typing import Any

import click
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig

from frozenseg.errors import UserInputError
from frozenseg.inference.loading import model_folder
from frozenseg.model import read_spec
from serve import proxy
from serve.ingress import Ingress
from serve.parts import HELD_BY_ENCODERS, Decoder, Encoders, SamMaskMaker
from serve.settings import Scaling, ServeSettings, settings_from
from serve.tracing import check_available

HELD_BY_SINGLES = 4
"""Requests that a part holds at once when it takes one image at a time: enough to keep it busy."""

INGRESS_ENVIRONMENT = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""The ingress never blocks its loop, so the two further threads that Serve gives a replica, for its handles and for our
code, would only pass every request to and fro."""


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
        spec = read_spec(model_folder(settings.model))
        if settings.otlp_endpoint:
            check_available()
    except UserInputError as error:
        raise ServeArgumentsError(str(error)) from error
    proxy.install()
    encoders = _deployment(Encoders).options(**_options(settings, settings.encoders, HELD_BY_ENCODERS)).bind(settings)
    decoder = _deployment(Decoder).options(**_options(settings, settings.decoder, HELD_BY_SINGLES)).bind(settings)
    sam_masks = None
    if spec.sam is not None or spec.mask_sam is not None:
        options = _options(settings, settings.sam_masks, HELD_BY_SINGLES)
        sam_masks = _deployment(SamMaskMaker).options(**options).bind(settings)
    in_flight = settings.limits.in_flight
    # Far more than are worked on: what is past the limit reaches our own guard, which answers with a clear 429.
    ingress_options = _options(settings, settings.ingress, 16 * in_flight, default_target=max(1, in_flight // 2))
    ingress_options["ray_actor_options"]["runtime_env"] = {"env_vars": INGRESS_ENVIRONMENT}
    ingress = _deployment(Ingress).options(
        **ingress_options, max_queued_requests=in_flight, backpressure_config=BackpressureConfig(retry_after_s=1)
    )
    return ingress.bind(settings, encoders, sam_masks, decoder)


def _deployment(part: Any) -> Deployment:
    """A class that is decorated with `serve.deployment`, which type checkers take for the class itself."""
    assert isinstance(part, Deployment)
    return part


def _options(settings: ServeSettings, scaling: Scaling, max_ongoing: int, default_target: int = 0) -> dict[str, Any]:
    """Serve's options of one part."""
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus},
        "max_ongoing_requests": max_ongoing,
        "max_surge_percent": settings.surge_percent,
        # No shorter than a request may take: what a stopping replica still holds would be lost.
        "graceful_shutdown_timeout_s": settings.limits.timeout_s + 5.0,
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 60.0,
        # One line a request is enough, and that is the guard's own.
        "logging_config": LoggingConfig(enable_access_log=False),
    }
    if scaling.max_replicas > scaling.min_replicas:
        options["autoscaling_config"] = AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            target_ongoing_requests=scaling.target_ongoing or default_target or max(1, max_ongoing // 2),
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=scaling.downscale_delay_s,
        )
    else:
        options["num_replicas"] = scaling.min_replicas
    return options
