"""`python -m service.processes.child NAME FD`: one process of several. Started by the supervisor alone."""

from __future__ import annotations

import os
import signal
import sys

from service.errors import ArtefactError, SettingsError


def main(fd: int) -> int:
    """What the orders on the line say; the exit code."""
    # Closing a terminal means nothing here. SIGTERM ends the process on the spot until something is served.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from service.processes.line import Line

    line = Line(fd)
    try:
        orders = line.receive()
        settings = orders.read_settings()
        from service.logs import take_over_logging

        log = take_over_logging(settings).bind(process=orders.name)
        if orders.role == "engine":
            from service.processes.owner import own

            return own(line, orders, settings, log)
        from service.processes.worker import work

        return work(line, orders, settings, log)
    except EOFError:
        return 0
    except SettingsError as error:
        line.tell("settings", str(error))
        return 2
    except ArtefactError as refusal:
        line.tell("refused", str(refusal))
        return 3


if __name__ == "__main__":
    code = main(int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Native threads may still run; unloading the interpreter under them could crash an orderly end.
    os._exit(code)
