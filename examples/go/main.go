// A home of one family. `pulumi package add` writes the SDK of the component into sdks/ and names it in go.mod.
package main

import (
	"example.com/pulumi-immich-exposure/sdk/go/immichexposure"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi/config"
)

func main() {
	pulumi.Run(func(ctx *pulumi.Context) error {
		settings := config.New(ctx, "")
		home, err := immichexposure.NewImmichExposure(ctx, "home", &immichexposure.ImmichExposureArgs{
			Host:               "192.168.1.20",
			HostKey:            settings.Require("homeKey"),
			KeystorePassphrase: settings.RequireSecret("keystorePassphrase"),
			LeaseHours:         pulumi.IntRef(72),
			Devices: []immichexposure.DeviceArgs{
				{Name: "phone-anna", Platform: "ios"},
			},
		})
		if err != nil {
			return err
		}
		ctx.Export("url", home.Url)
		ctx.Export("public", home.Public)
		ctx.Export("passwords", home.BundlePasswords)
		return nil
	})
}
