"""Stand-ins for two Pulumi plugins that no Go module provides: the Python language host and `command`.

They are used only if the official ones are missing (see `toolchain.programs`), and nothing in the
project relies on them. Each speaks the plugin's gRPC protocol with the stubs that come with the Pulumi
Python SDK.
"""
