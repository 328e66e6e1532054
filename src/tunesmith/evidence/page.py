"""Self-contained pages: a template and its styles in, one file out, whole or not at all.

`report.py` and `check_page.py` say what stands on them. It knows neither runs nor checks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.errors import RunError


def render_page(template: str, styles: Sequence[str], **shown: Any) -> str:
    """Return the page of a template of this folder; all text is escaped, unless it is Markup.

    Args:
        styles: style sheets of this folder; the template has them as `style`.
        shown: what else the template asks for; a name that is missing is an error.
    """
    loader = PackageLoader("tunesmith.evidence", ".")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup("\n".join(loader.get_source(environment, name)[0] for name in styles))
    return environment.get_template(template).render(style=style, **shown)


def write_page(page: str, path: Path, *, called: str, fix: str) -> None:
    """Write a page in place of an earlier one.

    Args:
        called: what an error calls it.
        fix: what to do where it cannot be written.

    Raises:
        RunError: the place cannot be written; nothing new is left there.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(page, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise RunError(
            f"The {called} could not be written: {error.strerror}.", where=str(path), fix=fix
        ) from error
