"""The deployment file: ours is in order, a misspelt key is refused at every level, arguments are checked at build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frozenseg.errors import UserInputError
from serve.settings import Limits, Scaling, ServeSettings, settings_from

CHECKOUT = Path(__file__).resolve().parents[2]
CONFIG = CHECKOUT / "serve" / "config.yaml"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(CHECKOUT), "RAY_AUTH_MODE": "disabled"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=CHECKOUT
    )


# In a process of its own: ray must not be imported before the session of the other tests decides on its token.
CASES = """
import sys
from pathlib import Path
from frozenseg.errors import UserInputError
from serve.deployment import check_deployment
text = Path(sys.argv[1]).read_text()
[settings] = check_deployment(sys.argv[1])
assert settings.encoders.max_replicas == 4, settings
for old, new, said in [
    ("proxy_location:", "proxy_place:", "'proxy_place'"),
    ("  port:", "  prot:", "http_options: unknown key 'prot'"),
    ("    route_prefix:", "    rout_prefix:", "applications[0]: unknown key 'rout_prefix'"),
    ("      threads:", "      thread:", "'thread'"),
    ("        in_flight:", "        inflight:", "'limits.inflight'"),
    ("max_replicas: 2, num_cpus", "max_replica: 2, num_cpus", "max_replica'"),
    ("port: 8000", "port: many", "http_options.port"),
    ("serve.app:build", "other.app:build", "no application"),
    ("proxy_location: EveryNode", "proxy_location: [", "not YAML"),
]:
    assert old in text, old
    changed = Path(sys.argv[2])
    changed.write_text(text.replace(old, new, 1))
    try:
        check_deployment(changed)
    except UserInputError as error:
        assert said in str(error), (said, str(error))
        assert "\\n" not in str(error)
    else:
        raise AssertionError(f"accepted {new!r}")

# `serve run` is a command of click, which prints such an error as one line and ends.
import click
from serve.app import build
try:
    build({"model": sys.argv[2] + "-nope"})
except click.ClickException as error:
    assert error.format_message() == f"model folder {sys.argv[2]}-nope does not exist", error
    assert isinstance(error, UserInputError)
else:
    raise AssertionError("accepted a folder that is not there")

# What a Ray that `serve run` starts after this hands to its proxies.
import os
from serve import proxy
os.environ.pop(proxy.ENVIRONMENT, None)
build({})
assert os.environ[proxy.ENVIRONMENT] == "serve.proxy:middlewares"
"""


def test_our_file_is_in_order_misspelt_keys_and_missing_folders_are_refused(tmp_path: Path) -> None:
    result = run("-c", CASES, str(CONFIG), str(tmp_path / "changed.yaml"))
    assert result.returncode == 0, result.stderr


def test_words_of_the_command_line_get_their_types() -> None:
    settings = settings_from({"threads": "2", "limits.in_flight": "8", "encoders.num_gpus": "0.5", "token": "123"})
    assert settings == ServeSettings(threads=2, limits=Limits(in_flight=8), encoders=Scaling(num_gpus=0.5), token="123")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"modle": "miniature"}, "modle"),
        ({"limits": {"pixels": 3}}, "pixels"),
        ({"threads": "many"}, "threads"),
        ({"limits.in_flight": "many"}, "in_flight"),
        ({"encoders": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas"),
        ({"url": {"allowed_hosts": 3}}, "allowed_hosts"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        settings_from(arguments)
