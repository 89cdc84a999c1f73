// A home of one family. `pulumi install` writes the SDK of the component into sdks/.
import * as pulumi from "@pulumi/pulumi";
import { ImmichExposure } from "@pulumi/immich-exposure";

const config = new pulumi.Config();

const home = new ImmichExposure("home", {
    host: "192.168.1.20",
    hostKey: config.require("homeKey"),
    keystorePassphrase: config.requireSecret("keystorePassphrase"),
    leaseHours: 72,
    devices: [{ name: "phone-anna", platform: "ios" }],
});

export const url = home.url;
export const words = home.public;
export const passwords = home.bundlePasswords;
