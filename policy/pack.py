"""The rules as a Pulumi policy pack: `pulumi preview --policy-pack policy` (docs/review.md).

It examines resources, so it applies whatever program made them: levels set in a stack file, or a program that
leaves out a step, cannot get around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from policy.rules import PRIVATE_KEY, RULES, Level, Rule, is_rsa, secrets_in

EXPOSURE = "immich-exposure:index:ImmichExposure"
FUNNEL = "immich-exposure:index:Funnel"
CHECK = "pulumi-python:dynamic/immich:ExposureCheck"
CHECK_OF_A_PLUGIN = "immich-exposure:step:ExposureCheck"
"""The same when a plugin serves it, for programs in other languages (`components.engine.step`)."""
COMMANDS = "command:remote:"
"""The beginning of the type of whatever goes to a server by SSH: commands, and copies of files."""

FACTS = frozenset(
    {
        "stack", "hostKey", "guard", "uploads", "uploadMegabytes", "uploadMegabytesPerHour",
        "uploadFilesPerHour", "uploadFreeGigabytes", "requests", "windowSeconds",
        "passwordAttempts", "passwordWindowSeconds", "linkPasswordsPerHour", "bundles",
        "bundleWindowSeconds", "banMaxRetry", "banFindSeconds", "ipv6Prefix", "banSeconds",
        "clientValidityDays", "caValidityDays",
    }
)  # fmt: skip
"""What every exposure says of itself; a rule cannot judge what is left out."""

Violation = tuple[str, str]
"""A sentence, and the URN of the resource it is about; the URN is empty for the whole stack."""


def unproven(resources: list[Any]) -> Iterator[Violation]:
    """Yield each funnel without an outside check in the same stack.

    The check itself waits for its funnel, and only a passed check lets the funnel stay open; only the check
    can be missing.
    """
    checks = [each for each in resources if each.resource_type in (CHECK, CHECK_OF_A_PLUGIN)]
    for funnel in resources:
        if funnel.resource_type == FUNNEL and not any(_beside(funnel, check) for check in checks):
            yield (
                "This funnel is opened and never checked from outside, so nothing proves that strangers get "
                "a 403; create it with ImmichExposure, which checks it.",
                funnel.urn,
            )


def _beside(funnel: Any, check: Any) -> bool:
    """Tell whether two resources belong to one exposure: with the same outermost parent, or none."""
    return _exposure_of(funnel.urn) == _exposure_of(check.urn)


def _exposure_of(urn: str) -> str:
    """Return what the URNs of one exposure share: the outermost type, and the names' prefix."""
    types, _, name = urn.partition("::")[2].rpartition("::")
    root = types.rpartition("::")[2].partition("$")[0]
    prefix = name.removesuffix("-funnel").removesuffix("-check")
    return f"{root} {prefix}"


def says_what_it_is(props: Mapping[str, Any]) -> bool:
    """Tell whether an exposure's properties are those that the rules examine."""
    return set(props) >= FACTS


def known(value: Any) -> Any:
    """Return the known part of properties; a preview does not know all of them, and `up` checks again."""
    if isinstance(value, Mapping):
        return _known_items(value, value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(_known_items(value, range(len(value))).values())
    return value


def _known_items(value: Any, keys: Iterable[Any]) -> dict[Any, Any]:
    found = {}
    for key in keys:
        with suppress(UnknownValueError):
            found[key] = known(value[key])
    return found


def private_keys(props: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of properties that hold a private key, secret or not: none belongs in the state."""
    yield from (path for path, what in secrets_in(props) if what == PRIVATE_KEY)


def unpinned(props: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the connection of a remote command."""
    connection = props.get("connection") or {}
    yield from _unpinned_at(connection, "connection")
    if connection.get("proxy"):
        yield from _unpinned_at(connection["proxy"], "connection.proxy")


def _unpinned_at(connection: Mapping[str, Any], path: str) -> Iterator[str]:
    key = str(connection.get("hostKey") or "").strip()
    if not key:
        yield f"This command trusts whichever machine answers; pin the machine's host key ({path}.hostKey)."
    elif is_rsa(key):
        yield (
            f"This command pins an RSA key ({path}.hostKey), with which no connection succeeds; pin the "
            "Ed25519 key."
        )


LEVELS = {
    Level.ADVISORY: EnforcementLevel.ADVISORY,
    Level.MANDATORY: EnforcementLevel.MANDATORY,
    Level.DISABLED: EnforcementLevel.DISABLED,
}


def of_rule(rule: Rule) -> ResourceValidationPolicy:
    """Return a rule as a policy that judges every exposure before anything is done."""

    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if args.resource_type == EXPOSURE and says_what_it_is(args.props):
            for sentence in rule.find(args.props):
                report(sentence, None)

    return ResourceValidationPolicy(
        name=rule.name, description=rule.wants, enforcement_level=LEVELS[rule.level], validate=validate
    )


def _exposures_say_what_they_are(args: ResourceValidationArgs, report: ReportViolation) -> None:
    if args.resource_type == EXPOSURE and not says_what_it_is(args.props):
        report(
            "This exposure does not say what it is, so no rule can judge it; use a version of the component "
            "that does.",
            None,
        )


def _commands_are_pinned(args: ResourceValidationArgs, report: ReportViolation) -> None:
    if args.resource_type.startswith(COMMANDS):
        for sentence in unpinned(args.props):
            report(sentence, None)


def _no_private_keys(args: ResourceValidationArgs, report: ReportViolation) -> None:
    for path in private_keys(known(args.props)):
        report(f"{path} holds a private key, and so would the state; keep keys in the keystore.", None)


def _funnels_are_proven(args: StackValidationArgs, report: ReportViolation) -> None:
    for sentence, urn in unproven(list(args.resources)):
        report(sentence, urn)


POLICIES = [
    *map(of_rule, RULES),
    StackValidationPolicy(
        name="no-funnel-without-the-check",
        description="What opens a funnel is checked from outside.",
        enforcement_level=EnforcementLevel.MANDATORY,
        validate=_funnels_are_proven,
    ),
    *(
        ResourceValidationPolicy(
            name=name,
            description=description,
            enforcement_level=EnforcementLevel.MANDATORY,
            validate=validate,
        )
        for name, description, validate in (
            (
                "exposures-say-what-they-are",
                "The rules can judge every exposure.",
                _exposures_say_what_they_are,
            ),
            (
                "commands-are-pinned",
                "A command trusts one machine, whose host key it names.",
                _commands_are_pinned,
            ),
            ("no-private-keys", "No property of any resource holds a private key.", _no_private_keys),
        )
    ),
]


def main() -> None:
    """Serve the pack to the engine, for as long as the engine needs it."""
    PolicyPack(
        name="immich-exposure",
        enforcement_level=EnforcementLevel.MANDATORY,
        description="The rules that a careful owner applies to every exposure of a home Immich.",
        policies=POLICIES,
    )
