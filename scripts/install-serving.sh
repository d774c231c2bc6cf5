#!/bin/sh
# Install what serving needs, and nothing of training: sh scripts/install-serving.sh cpu|gpu [python]
# The Dockerfile runs this; a test runs it in a fresh virtual environment and lists what came.
set -eu
device=${1:?"say cpu or gpu"}
python=${2:-python3}
case $device in
cpu | gpu) ;;
*)
	echo "install-serving: device is '$device', expected cpu or gpu" >&2
	exit 2
	;;
esac
"$python" -m pip install --disable-pip-version-check -c constraints.txt ".[$device]"
