"""How many examples a property test draws: a third in `make test`, all in `make test-random`."""

from hypothesis import settings


def examples(count: int, **options) -> settings:
    """Settings for `count` examples where they are new each time, and fewer, but three at least, where they are not."""
    anew = settings.get_current_profile_name() == "random"
    return settings(max_examples=count if anew else max(min(count, 3), count // 3), **options)
