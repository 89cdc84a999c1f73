"""The whole exposure as one component: it exposes a home Immich, and takes that back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pulumi

from components.adoption import AdoptedCertificate, Adoption, ChapterTakeOver, with_predecessor
from components.ban_lists import BanListsOnServer
from components.certificate_authority import CertificateAuthority
from components.client_certificate import ClientCertificate
from components.config.home import EdgeBuilder, ModuleWay
from components.config.policy_facts import enforce_policy, policy_facts
from components.config.stack_config import ExposureConfig
from components.describe.public_surface import PublicSurface, public_surface, what_to_set_in_immich
from components.device_list import DeviceList, EnrollableCertificate
from components.device_withdrawal import DeviceWithdrawal
from components.devices.keystore_location import KeystoreLocation
from components.devices.let_in import Authorized
from components.devices.renewal import authority_renewal, device_renewal, renewal_plan_of
from components.drift import Drift, Seen, look_now, to_be_revoked
from components.edge_build import EdgeBuild
from components.edge_settings import EdgeSettings
from components.edge_upload import EdgeUpload
from components.exposure_check import ExposureCheck, by_question
from components.frame_secret import FrameSecret
from components.funnel import Funnel
from components.install_sheets import InstallSheets
from components.link_report import LinkReport
from components.nixos_configuration import NixosConfiguration
from components.notices import Notices, silence
from components.preflight.list_sources import look_now as look_at_lists_now
from components.preflight.preflight import Preflight, expected_uploads
from components.preflight.uploads_room import look_now as look_at_room_now
from components.remote.remote_script import Server, server_of
from components.server_certificate import ServerCertificate
from components.server_state import ServerState
from components.short_lease import ShortLease
from components.stack_identity import StackIdentity, stack_name
from components.trust_pool import TrustPool
from pki import AuthorityProfile, DeviceProfile
from pki.files import is_folder


class ImmichExposure(pulumi.ComponentResource):
    """A home Immich on the internet: shared links for everybody, all of Immich for the owner's devices.

    Read it from top to bottom: that is the order of ``pulumi up``. ``pulumi destroy`` runs from bottom to
    top, so the funnel closes before anything else is touched.
    """

    url: pulumi.Output[str]
    """Where Immich can be reached, for example ``https://immich.tail1234.ts.net``."""
    devices: pulumi.Output[dict[str, dict[str, str]]]
    """By device name: platform, fingerprint, expiry, and the paths of bundle and install sheet."""
    bundle_passwords: pulumi.Output[dict[str, str]]
    """The import password of each device's bundle; a secret."""
    frame_secrets: pulumi.Output[dict[str, str]]
    """The secret that each frame sends in a header, by its name."""
    checked: pulumi.Output[dict[str, str]]
    """What was proven from outside, by question; ``closed`` says why the funnel is closed."""
    public: PublicSurface
    """Who can reach what, within which limits and for how long, in words."""
    in_immich: pulumi.Output[str]
    """What to set in Immich itself, in words."""

    def __init__(self, name: str, config: ExposureConfig, opts: pulumi.ResourceOptions | None = None) -> None:
        facts = policy_facts(config, pulumi.get_stack())
        enforce_policy(facts, config)
        super().__init__("immich-exposure:index:ImmichExposure", name, facts, opts)
        self._prefix = name
        self._config = config
        self._server = _identified(f"{name}-identity", server_of(config))
        self._keystore = KeystoreLocation(config.keystore, pulumi.get_stack(), config.keystore_passphrase)
        self._say_what_a_preview_does_not_check()
        self._renewal_plan = renewal_plan_of(config)
        for notice in self._renewal_plan.notices:
            pulumi.warn(notice)
        self._authorized = Authorized(
            self._names(), self._renewal_plan.devices_current, self._renewal_plan.revoked
        )
        self._seen = self._look_at_the_server()

        withdrawal = self._device_withdrawal()
        preflight = self._preflight(withdrawal)
        built = self._edge_build(preflight)
        drift = self._drift(preflight)
        adoption = self._adoption(preflight)
        adopted = adoption.certificates if adoption else {}
        self._server_for_funnel = replace(self._server, repaired=drift.funnel_repaired)
        self._server = replace(self._server, repaired=drift.repaired)
        authority = self._certificate_authority(adoption or preflight)
        certificates = self._client_certificates(authority)
        frames = self._frame_secrets(authority)
        devices = {**self._certificates_to_enrol(certificates, adopted), **frames}
        short_lease = self._short_lease(authority, devices, built)
        state = self._server_state(short_lease, [*certificates.values(), *frames.values()])
        settings = self._edge_settings(state)
        server_certificate = self._server_certificate(state)
        trust_pool = self._trust_pool(authority, state)
        notices = self._notices(state)
        edge = self._edge_upload(built, state)
        ready = [settings, server_certificate, trust_pool, *_present(notices, edge)]
        chapter = self._chapter_take_over(adoption, ready)
        nixos = self._nixos_configuration(edge, [*ready, *_present(chapter)])
        self._link_report(nixos)
        lists = self._ban_lists(nixos)
        enrolled = self._device_list(devices, nixos)
        funnel = self._funnel(nixos, enrolled, lists)
        check = self._exposure_check(server_certificate, authority, funnel, short_lease)
        url = server_certificate.domain.apply(self._url)
        sheets = self._install_sheets(certificates, url)

        # An earlier proof must not read as if it still held.
        closed = self._seen.apply(lambda seen: seen.closed)
        self.url = pulumi.Output.all(url=url, closed=closed).apply(
            lambda known: f"{known['url']} (closed)" if known["closed"] else known["url"]
        )
        self.checked = pulumi.Output.all(results=check.results, closed=closed).apply(
            lambda known: (
                {"closed": " ".join(known["closed"])} if known["closed"] else by_question(known["results"])
            )
        )
        self.public = public_surface(config)
        self.in_immich = url.apply(what_to_set_in_immich)
        self.devices = self._devices_by_name(certificates, sheets, adopted)
        self.bundle_passwords = pulumi.Output.all(
            **{device: certificate.bundle_password for device, certificate in certificates.items()}
        )
        self.frame_secrets = pulumi.Output.secret(
            pulumi.Output.all(**{name: frame.secret for name, frame in frames.items()})
        )
        self.register_outputs({"url": self.url, "public": self.public, "devices": self.devices})

    def _look_at_the_server(self) -> pulumi.Output[Seen]:
        seen = look_now(self._server, self._config, self._authorized)
        if pulumi.runtime.is_dry_run():
            if self._config.ban_lists:
                look_at_lists_now(self._server, self._config.ban_lists, self._config.crowdsec_key, after=seen)
            if uploads := expected_uploads(self._config):
                look_at_room_now(self._server, uploads, after=seen)
        return seen

    def _say_what_a_preview_does_not_check(self) -> None:
        if not pulumi.runtime.is_dry_run():
            return
        pulumi.info(
            "A preview asks the server only what has changed there since it was proven, and checks what "
            "banLists, uploads and immichApiKey need there. Anything else in the way is reported by pulumi "
            "up, before it changes anything."
        )
        if not is_folder(Path(self._keystore.path)):
            pulumi.info(
                f"There is no keystore at {self._keystore.path}. The first pulumi up creates it; once "
                "devices have certificates from it, every pulumi up needs it."
            )
        if self._server.lacks_key:
            pulumi.warn(
                f"There is no private SSH key at {self._server.private_key_file}. A preview works without "
                "it; pulumi up needs it."
            )

    def _device_withdrawal(self) -> DeviceWithdrawal:
        # Before anything that may fail. If the server cannot be read, this finds nothing and blocks nothing.
        return DeviceWithdrawal(
            f"{self._prefix}-withdrawal",
            server=self._server,
            keystore=self._keystore,
            devices=self._names(),
            frames=[frame.name for frame in self._config.frames],
            take_over=self._config.take_over,
            found=to_be_revoked(self._seen, self._authorized),
            opts=self._after(),
        )

    def _names(self) -> list[str]:
        """Return everyone authorised: devices and frames of the config, and adopted devices."""
        adopt = self._config.adopt
        taken_over = [device.name for device in adopt.devices] if adopt else []
        return list(dict.fromkeys([*self._issued_here(), *taken_over]))

    def _issued_here(self) -> list[str]:
        """Return the devices and frames whose certificates and secrets the keystore creates."""
        devices = [device.name for device in self._config.devices]
        return [*devices, *(frame.name for frame in self._config.frames)]

    def _preflight(self, withdrawal: DeviceWithdrawal) -> Preflight:
        return Preflight(
            f"{self._prefix}-preflight",
            server=self._server,
            config=self._config,
            keystore=self._keystore,
            renewal_plan=self._renewal_plan,
            already_given=self._seen.apply(lambda seen: seen.to_tell),
            opts=self._after(withdrawal),
        )

    def _drift(self, preflight: Preflight) -> Drift:
        return Drift(
            f"{self._prefix}-drift",
            server=self._server,
            keystore=self._keystore,
            config=self._config,
            seen=self._seen,
            opts=self._after(preflight),
        )

    def _adoption(self, preflight: Preflight) -> Adoption | None:
        if self._config.adopt is None:
            return None
        return Adoption(
            f"{self._prefix}-adoption",
            server=self._server,
            keystore=self._keystore,
            adopt=self._config.adopt,
            ca_passphrase=self._config.adopt_ca_passphrase,
            opts=self._after(preflight),
        )

    def _certificate_authority(self, before: pulumi.Resource) -> CertificateAuthority:
        return CertificateAuthority(
            f"{self._prefix}-ca",
            keystore=self._keystore,
            profile=AuthorityProfile(
                common_name=self._config.ca.common_name,
                organization=self._config.ca.organization,
                country=self._config.ca.country,
                validity_days=self._config.ca.validity_days,
                key_type=self._config.key_type,
            ),
            devices=self._issued_here(),
            purge_keystore=self._config.purge_keystore,
            renewal=authority_renewal(self._config),
            due=self._renewal_plan.authority_due,
            opts=self._after(before),
        )

    def _client_certificates(self, authority: CertificateAuthority) -> dict[str, ClientCertificate]:
        return {
            device.name: ClientCertificate(
                f"{self._prefix}-device-{device.name}",
                keystore=self._keystore,
                authority=authority,
                device=device.name,
                profile=DeviceProfile(
                    common_name=device.common_name,
                    organization=device.organization,
                    platform=device.platform,
                    validity_days=self._config.client_validity_days,
                    key_type=self._config.key_type,
                ),
                renewal=device_renewal(self._config),
                due=self._renewal_plan.devices_due[device.name],
                opts=self._after(),
            )
            for device in self._config.devices
        }

    def _frame_secrets(self, authority: CertificateAuthority) -> dict[str, FrameSecret]:
        return {
            frame.name: FrameSecret(
                f"{self._prefix}-frame-{frame.name}",
                keystore=self._keystore,
                authority=authority,
                frame=frame.name,
                opts=self._after(authority),
            )
            for frame in self._config.frames
        }

    def _short_lease(
        self,
        authority: CertificateAuthority,
        devices: Mapping[str, EnrollableCertificate],
        built: EdgeBuild | None,
    ) -> ShortLease:
        # Nothing is written to the server until every key and certificate is known to be sound and every
        # local build is done.
        return ShortLease(
            f"{self._prefix}-short-lease",
            server=self._server,
            config=self._config,
            authority=authority,
            devices=devices,
            opts=self._after(authority, built),
        )

    def _server_state(self, short_lease: ShortLease, keys: Sequence[pulumi.Resource]) -> ServerState:
        return ServerState(
            f"{self._prefix}-state",
            server=self._server,
            owner=stack_name(),
            take_over=self._config.take_over,
            devices=self._names(),
            opts=self._after(short_lease, *keys),
        )

    def _edge_settings(self, state: ServerState) -> EdgeSettings:
        return EdgeSettings(
            f"{self._prefix}-settings", server=self._server, config=self._config, opts=self._after(state)
        )

    def _server_certificate(self, state: ServerState) -> ServerCertificate:
        return ServerCertificate(
            f"{self._prefix}-server-certificate", server=self._server, opts=self._after(state)
        )

    def _trust_pool(self, authority: CertificateAuthority, state: ServerState) -> TrustPool:
        return TrustPool(
            f"{self._prefix}-trust-pool", server=self._server, authority=authority, opts=self._after(state)
        )

    def _notices(self, state: ServerState) -> Notices | None:
        # Before the funnel, so that notices work when it opens, and also when a destroy closes it.
        notify = self._config.notify
        if notify is None:
            return None
        if pulumi.runtime.is_dry_run() and (silent := silence(notify)):
            pulumi.warn(silent)
        return Notices(
            f"{self._prefix}-notices",
            server=self._server,
            notify=notify,
            token=self._config.notify_token,
            opts=self._after(state),
        )

    def _edge_build(self, preflight: Preflight) -> EdgeBuild | None:
        if self._config.edge_build is EdgeBuilder.SERVER:
            return None
        return EdgeBuild(f"{self._prefix}-edge", server=self._server, opts=self._after(preflight))

    def _edge_upload(self, built: EdgeBuild | None, state: ServerState) -> EdgeUpload | None:
        if built is None:
            return None
        return EdgeUpload(
            f"{self._prefix}-edge-upload", server=self._server, built=built, opts=self._after(state)
        )

    def _chapter_take_over(
        self, adoption: Adoption | None, before: Sequence[pulumi.Resource]
    ) -> ChapterTakeOver | None:
        # As late as possible: from here on nobody gets in until the exposure is proven.
        if adoption is None:
            return None
        managed = self._config.module is ModuleWay.MANAGED
        return ChapterTakeOver(
            f"{self._prefix}-chapter",
            server=self._server,
            adoption=adoption,
            funnel_port=self._config.funnel_port,
            proxy_port=self._config.proxy_port,
            config_dir=self._config.config_dir if managed else None,
            opts=self._after(*before),
        )

    def _nixos_configuration(
        self, edge: EdgeUpload | None, before: Sequence[pulumi.Resource]
    ) -> NixosConfiguration:
        return NixosConfiguration(
            f"{self._prefix}-nixos",
            server=self._server,
            config=self._config,
            edge=edge.edge if edge else None,
            opts=self._after(*before),
        )

    def _link_report(self, nixos: NixosConfiguration) -> LinkReport | None:
        # After the edge, which asks Immich. Nothing waits for it: a refused key is reported.
        if self._config.immich_api_key is None:
            return None
        return LinkReport(
            f"{self._prefix}-link-report",
            server=self._server,
            api_key=self._config.immich_api_key,
            opts=self._after(nixos),
        )

    def _certificates_to_enrol(
        self, certificates: dict[str, ClientCertificate], adopted: dict[str, AdoptedCertificate]
    ) -> dict[str, EnrollableCertificate]:
        """Return each device's certificate; an adopted device that also has a new one keeps both."""
        both = {
            name: with_predecessor(certificates[name], old)
            for name, old in adopted.items()
            if name in certificates
        }
        return {**certificates, **adopted, **both}

    def _device_list(
        self, certificates: dict[str, EnrollableCertificate], nixos: NixosConfiguration
    ) -> DeviceList:
        return DeviceList(
            f"{self._prefix}-devices",
            server=self._server,
            keystore=self._keystore,
            certificates=certificates,
            already_given=self._seen.apply(lambda seen: seen.to_tell),
            opts=self._after(nixos),
        )

    def _ban_lists(self, nixos: NixosConfiguration) -> BanListsOnServer | None:
        # Before the funnel, so that nobody on a list gets in first.
        if self._config.ban_lists is None:
            return None
        return BanListsOnServer(
            f"{self._prefix}-ban-lists",
            server=self._server,
            lists=self._config.ban_lists,
            key=self._config.crowdsec_key,
            opts=self._after(nixos),
        )

    def _funnel(
        self, nixos: NixosConfiguration, enrolled: DeviceList, lists: BanListsOnServer | None
    ) -> Funnel:
        return Funnel(
            f"{self._prefix}-funnel",
            server=self._server_for_funnel,
            funnel_port=self._config.funnel_port,
            proxy_port=self._config.proxy_port,
            opts=self._after(nixos, enrolled, lists),
        )

    def _exposure_check(
        self,
        server_certificate: ServerCertificate,
        authority: CertificateAuthority,
        funnel: Funnel,
        short_lease: ShortLease,
    ) -> ExposureCheck:
        return ExposureCheck(
            f"{self._prefix}-check",
            server=self._server_for_funnel,
            domain=server_certificate.domain,
            config=self._config,
            keystore=self._keystore,
            authority=authority,
            funnel=funnel,
            begun=short_lease.begun,
            opts=self._after(funnel),
        )

    def _install_sheets(
        self, certificates: dict[str, ClientCertificate], url: pulumi.Output[str]
    ) -> InstallSheets:
        # They wait only for what they print, so that a destroy closes the funnel first.
        return InstallSheets(
            f"{self._prefix}-sheets",
            keystore=self._keystore,
            platforms={device.name: device.platform for device in self._config.devices},
            certificates=certificates,
            url=url,
            opts=self._after(),
        )

    def _url(self, domain: str) -> str:
        port = self._config.funnel_port
        return f"https://{domain}" if port == 443 else f"https://{domain}:{port}"

    def _devices_by_name(
        self,
        certificates: dict[str, ClientCertificate],
        sheets: InstallSheets,
        adopted: dict[str, AdoptedCertificate],
    ) -> pulumi.Output[dict[str, dict[str, str]]]:
        """Return the enrolled devices; an adopted device has nothing to install."""
        issued: dict[str, dict[str, pulumi.Input[str]]] = {
            device.name: {
                "platform": device.platform,
                "fingerprint": certificates[device.name].fingerprint,
                "notAfter": certificates[device.name].not_after,
                "bundle": certificates[device.name].bundle_path,
                "sheet": sheets.path(device.name),
            }
            for device in self._config.devices
        }
        taken_over: dict[str, dict[str, pulumi.Input[str]]] = {
            name: {
                "platform": "adopted",
                "fingerprint": certificate.fingerprint,
                "notAfter": certificate.not_after,
                "bundle": "",
                "sheet": "",
            }
            for name, certificate in adopted.items()
        }
        entries = {**taken_over, **issued}
        return pulumi.Output.all(*entries.values()).apply(
            lambda found: dict(zip(entries, found, strict=True))
        )

    def _after(self, *resources: pulumi.Resource | None) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, depends_on=_present(*resources))


def _identified(name: str, server: Server) -> Server:
    """Return the server with the stack's id, so that its scripts refuse another stack."""
    return replace(server, stack_id=StackIdentity(name, server).id)


def _present(*resources: pulumi.Resource | None) -> list[pulumi.Resource]:
    """Return the resources that this config has."""
    return [resource for resource in resources if resource is not None]
