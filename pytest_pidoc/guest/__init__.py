"""Communication with the Linux inside a node: SSH, the serial console and the agent."""
