"""The whole chapter: one component that exposes a home Immich, and takes it back."""

from __future__ import annotations

import pulumi

from components.certificate_authority import CertificateAuthority, KeystoreLocation
from components.client_certificate import ClientCertificate
from components.config import ExposureConfig
from components.config_home import EdgeBuilder
from components.device_enrolment import DeviceEnrolment
from components.edge_build import EdgeBuild
from components.edge_settings import EdgeSettings
from components.exposure_check import ExposureCheck
from components.funnel import Funnel
from components.install_sheet import InstallSheet
from components.nixos_configuration import NixosConfiguration
from components.preflight import Preflight
from components.remote_script import Server
from components.renewal import authority_renewal, device_renewal, outlook_of
from components.server_certificate import ServerCertificate
from components.server_state import ServerState
from components.surface import Words, what_becomes_public, what_to_set_in_immich
from components.trust_pool import TrustPool
from pki import AuthorityProfile, DeviceProfile

ENROLMENT_LANES = 4
"""So many devices are enrolled at once. Every command makes a connection of its own, and sshd refuses some of
more than ten that have not logged in yet (MaxStartups in sshd_config(5))."""


class ImmichExposure(pulumi.ComponentResource):
    """A home Immich on the internet: shared links for everybody, all of it for the owner's devices.

    Read it from top to bottom: this is the order of ``pulumi up``. ``pulumi destroy`` goes from bottom to
    top, so the funnel closes before anything else is touched.
    """

    url: pulumi.Output[str]
    """Where Immich can be reached, for example ``https://immich.tail1234.ts.net``."""
    devices: pulumi.Output[list[dict[str, str]]]
    """One entry per device: name, platform, fingerprint, expiry, paths of bundle and install sheet."""
    bundle_passwords: pulumi.Output[dict[str, str]]
    """The import password of each device's bundle; a secret."""
    public: Words
    """Who can reach what, within which limits and for how long, in words."""
    in_immich: pulumi.Output[str]
    """What to set in Immich itself, in words."""

    def __init__(self, name: str, config: ExposureConfig, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("immich-exposure:index:ImmichExposure", name, {}, opts)
        self._prefix = name
        self._config = config
        self._server = Server(
            host=config.host,
            port=config.ssh_port,
            user=config.ssh_user,
            host_key=config.host_key,
            private_key_file=config.ssh_private_key_file,
            sudo_password=config.sudo_password,
        )
        self._keystore = KeystoreLocation(config.keystore, pulumi.get_stack(), config.keystore_passphrase)
        self._outlook = outlook_of(config)
        for notice in self._outlook.notices:
            pulumi.warn(notice)

        preflight = self._look_before_changing_anything()
        authority = self._certificate_authority(preflight)
        certificates = self._client_certificates(authority)
        state = self._folder_on_the_server(list(certificates.values()))
        settings = self._edge_settings(state)
        server_certificate = self._server_certificate(state)
        trust_pool = self._trust_pool(authority, state)
        edge = self._edge_built_here(state)
        nixos = self._nixos_configuration(edge, settings, server_certificate, trust_pool)
        enrolments = self._enrolments(certificates, nixos)
        funnel = self._funnel(nixos, enrolments)
        check = self._check_from_outside(server_certificate, authority, funnel)

        self.url = server_certificate.domain.apply(self._url)
        sheets = self._install_sheets(certificates)

        self.checked = check.results
        self.public = what_becomes_public(config)
        self.in_immich = self.url.apply(what_to_set_in_immich)
        self.devices = self._device_list(certificates, sheets)
        self.bundle_passwords = pulumi.Output.all(
            **{device: certificate.bundle_password for device, certificate in certificates.items()}
        )
        self.register_outputs({"url": self.url, "public": self.public, "devices": self.devices})

    def _look_before_changing_anything(self) -> Preflight:
        return Preflight(
            f"{self._prefix}-preflight",
            server=self._server,
            config=self._config,
            opts=self._after(),
        )

    def _certificate_authority(self, preflight: Preflight) -> CertificateAuthority:
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
            devices=[device.name for device in self._config.devices],
            purge_keystore=self._config.purge_keystore,
            renewal=authority_renewal(self._config),
            step=self._outlook.authority_step,
            found=self._outlook.authority_found,
            opts=self._after(preflight),
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
                step=self._outlook.device_steps[device.name],
                found=self._outlook.devices_found[device.name],
                opts=self._after(),
            )
            for device in self._config.devices
        }

    def _folder_on_the_server(self, certificates: list[ClientCertificate]) -> ServerState:
        # Nothing is written to the server before every key and certificate is known to be sound.
        return ServerState(
            f"{self._prefix}-state",
            server=self._server,
            owner=pulumi.get_stack(),
            devices=[device.name for device in self._config.devices],
            opts=self._after(*certificates),
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

    def _edge_built_here(self, state: ServerState) -> EdgeBuild | None:
        if self._config.edge_build is EdgeBuilder.SERVER:
            return None
        return EdgeBuild(f"{self._prefix}-edge", server=self._server, opts=self._after(state))

    def _nixos_configuration(
        self,
        edge: EdgeBuild | None,
        settings: EdgeSettings,
        server_certificate: ServerCertificate,
        trust_pool: TrustPool,
    ) -> NixosConfiguration:
        return NixosConfiguration(
            f"{self._prefix}-nixos",
            server=self._server,
            config=self._config,
            edge=edge.edge if edge else None,
            opts=self._after(settings, server_certificate, trust_pool, *([edge] if edge else [])),
        )

    def _enrolments(
        self, certificates: dict[str, ClientCertificate], nixos: NixosConfiguration
    ) -> list[DeviceEnrolment]:
        enrolments: list[DeviceEnrolment] = []
        for device, certificate in certificates.items():
            before = enrolments[-ENROLMENT_LANES:][:1] if len(enrolments) >= ENROLMENT_LANES else []
            enrolments.append(
                DeviceEnrolment(
                    f"{self._prefix}-enrolment-{device}",
                    server=self._server,
                    device=device,
                    certificate=certificate,
                    opts=self._after(nixos, *before),
                )
            )
        return enrolments

    def _funnel(self, nixos: NixosConfiguration, enrolments: list[DeviceEnrolment]) -> Funnel:
        return Funnel(
            f"{self._prefix}-funnel",
            server=self._server,
            funnel_port=self._config.funnel_port,
            proxy_port=self._config.proxy_port,
            opts=self._after(nixos, *enrolments),
        )

    def _check_from_outside(
        self,
        server_certificate: ServerCertificate,
        authority: CertificateAuthority,
        funnel: Funnel,
    ) -> ExposureCheck:
        return ExposureCheck(
            f"{self._prefix}-check",
            server=self._server,
            domain=server_certificate.domain,
            config=self._config,
            keystore=self._keystore,
            authority=authority,
            funnel=funnel,
            opts=self._after(funnel),
        )

    def _install_sheets(self, certificates: dict[str, ClientCertificate]) -> dict[str, InstallSheet]:
        # They wait for what stands on them and for nothing else, so that a destroy closes the funnel first.
        return {
            device.name: InstallSheet(
                f"{self._prefix}-sheet-{device.name}",
                keystore=self._keystore,
                device=device.name,
                platform=device.platform,
                certificate=certificates[device.name],
                url=self.url,
                opts=self._after(),
            )
            for device in self._config.devices
        }

    def _url(self, domain: str) -> str:
        port = self._config.funnel_port
        return f"https://{domain}" if port == 443 else f"https://{domain}:{port}"

    def _device_list(
        self, certificates: dict[str, ClientCertificate], sheets: dict[str, InstallSheet]
    ) -> pulumi.Output[list[dict[str, str]]]:
        return pulumi.Output.all(
            *(
                {
                    "name": device.name,
                    "platform": device.platform,
                    "fingerprint": certificates[device.name].fingerprint,
                    "notAfter": certificates[device.name].not_after,
                    "bundle": certificates[device.name].bundle_path,
                    "sheet": sheets[device.name].path,
                }
                for device in self._config.devices
            )
        )

    def _after(self, *resources: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, depends_on=list(resources))
