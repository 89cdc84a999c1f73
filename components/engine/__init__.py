"""What every component here has to do with Pulumi's engine: resources, options, errors for people."""
