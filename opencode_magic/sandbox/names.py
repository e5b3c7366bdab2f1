"""Random bits -> the name of a sandbox, chosen before it is created."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from opencode_magic.core.status import Home

PREFIX = "ocm-"
_ADJECTIVE_WORDS = (
    "amber bold brave brisk calm clear coral crisp deft dusky early eager fair fleet fond frosty "
    "gentle glad golden grand green hardy humble idle jolly keen kind late light lively lone loyal "
    "lucid mellow merry mild misty modest neat noble olive opal pale patient plain polite proud "
    "quick quiet rapid ready rosy rustic silent silver sleek smooth snowy soft solid steady still "
    "sunny swift tidy tender true vivid warm wise witty young zesty"
)
_NOUN_WORDS = (
    "badger beaver bison bittern condor coot crane curlew dove dunlin eagle egret falcon ferret "
    "finch fox gannet gecko goose grebe grouse gull hare harrier hawk hedgehog heron hoopoe ibis "
    "jackdaw jay kestrel kite lapwing lark linnet lynx magpie marten martin merlin moose newt "
    "nuthatch osprey otter owl oyster petrel pigeon pipit plover puffin quail raven redwing robin "
    "rook ruff sable shrew siskin snipe sparrow starling stoat stork swan swift tern thrush toad "
    "turtle vole wagtail warbler weasel whale wren"
)
_ADJECTIVES = tuple(_ADJECTIVE_WORDS.split())
_NOUNS = tuple(_NOUN_WORDS.split())
_SUFFIX = "abcdefghjkmnpqrstuvwxyz23456789"
_SUFFIX_CHARS = 4


def new_name(home: Home, *, taken: Collection[str] = ()) -> str:
    """Give a new name that is none of the taken ones, such as ``ocm-quiet-heron``.

    On the cloud home a random end keeps apart the kernels that share a project: a sandbox is
    found again, and destroyed, by its name alone.
    """
    name = f"{PREFIX}{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}"
    if home == "local" and name not in taken:
        return name
    return f"{name}-{''.join(secrets.choice(_SUFFIX) for _ in range(_SUFFIX_CHARS))}"
