"""What a worker shows and trusts, read from its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.client.credentials import Credentials
from worker.errors import BanditRefused


def test_nothing_is_shown_unless_the_environment_says_so() -> None:
    assert Credentials.from_environment({}) == Credentials.from_environment({"OPTIMA_TOKEN": ""}) == Credentials()


def test_a_file_goes_before_the_variable(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n", encoding="ascii")
    environment = {"OPTIMA_TOKEN": "other", "OPTIMA_TOKEN_FILE": str(tmp_path / "token")}
    assert Credentials.from_environment(environment).token == "from-file"
    assert Credentials.from_environment({"OPTIMA_TOKEN": "other"}).token == "other"


def test_certificates_come_from_files(tmp_path: Path) -> None:
    names = ("OPTIMA_TLS_CA", "OPTIMA_TLS_CLIENT_CERT", "OPTIMA_TLS_CLIENT_KEY")
    for name in names:
        (tmp_path / name).write_text(name, encoding="ascii")
    credentials = Credentials.from_environment({name: str(tmp_path / name) for name in names})
    assert (credentials.tls, credentials.authorities, credentials.certificate, credentials.key) == (
        True,
        *(name.encode() for name in names),
    )
    public = Credentials.from_environment({"OPTIMA_TLS_CA": "public"})
    assert (public.tls, public.authorities) == (True, None)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OPTIMA_TOKEN": "a\nb"}, "printable ASCII"),
        ({"OPTIMA_TOKEN_FILE": "/nowhere/token"}, "OPTIMA_TOKEN_FILE /nowhere/token cannot be read: No such file"),
        ({"OPTIMA_TOKEN_FILE": "/dev/null"}, "/dev/null is empty"),
        ({"OPTIMA_TLS_CA": "/nowhere/ca"}, "OPTIMA_TLS_CA /nowhere/ca cannot be read"),
        ({"OPTIMA_TLS_CLIENT_CERT": "c", "OPTIMA_TLS_CLIENT_KEY": "k"}, "belong together"),
        ({"OPTIMA_TLS_CLIENT_CERT": "c", "OPTIMA_TLS_CA": "public"}, "belong together"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(environment: dict[str, str], words: str) -> None:
    with pytest.raises(BanditRefused, match=words):
        Credentials.from_environment(environment)
