"""What every component shares in dealing with Pulumi's engine: resources, options, errors for people."""
