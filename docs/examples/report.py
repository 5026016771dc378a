"""The program under test: prints host name, architecture and uptime as JSON."""

import json
import platform
from pathlib import Path

uptime = float(Path("/proc/uptime").read_text().split()[0])
print(json.dumps({"host": platform.node(), "machine": platform.machine(), "uptime": uptime}))
