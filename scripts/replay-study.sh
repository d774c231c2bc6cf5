#!/usr/bin/env bash
# Every finished run of a study as an artefact, served by one process, and held to what its evaluation said.
#
#   scripts/replay-study.sh $AFTERGLOW_RUNS/studies/llm-esr $AFTERGLOW_DATA/amazon_beauty docs/results/replay-llm-esr.json
#
# Artefacts and results are kept in STUDY/artefacts and STUDY/replays: started again it only does what is missing. Runs of
# another data set are left out. The JSON holds one entry for each run; exit code 1 when one of them breaks a promise.
set -euo pipefail
study=${1:?study folder} dataset=${2:?dataset folder} out=${3:?JSON to write}
python=${PYTHON:-python} port=${PORT:-8095}
artefacts=$study/artefacts replays=$study/replays
mkdir -p "$artefacts" "$replays"

for run in "$study"/runs/"$(basename "$dataset")"-*; do
    name=$(basename "$run")
    [ -f "$run/evaluation.json" ] || continue
    [ -d "$artefacts/$name" ] || "$python" -m export "$run" --out "$artefacts"
done

state=$(mktemp -d)
AFTERGLOW_LOG_LEVEL=warning "$python" -m service serve --artefacts "$artefacts" --port "$port" --state-dir "$state" &
service=$!
trap 'kill $service 2>/dev/null; wait $service || true; rm -rf "$state"' EXIT
until curl -sf "http://127.0.0.1:$port/readyz" >/dev/null; do
    kill -0 $service || { echo "the service did not start" >&2; exit 1; }
    sleep 0.5
done

failed=0
for artefact in "$artefacts"/*/; do
    name=$(basename "$artefact")
    [ -f "$replays/$name.json" ] && continue
    echo "replay $name"
    # What a dataset says of its test set can be worked out for leave-one-out alone; every run is held to its evaluation.
    split=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["policy"]["split"])' "$study/runs/$name/evaluation.json")
    whole=()
    [ "$split" != leave_one_out ] || whole=(--dataset "$dataset")
    "$python" -m loadtest replay --host "http://127.0.0.1:$port" --scenario "$name" --expected "$study/runs/$name" \
        "${whole[@]}" --out "$replays/$name.json" || failed=1
done
"$python" - "$replays" "$out" <<'PY'
import json, pathlib, sys

results = {path.stem: json.loads(path.read_bytes()) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json"))}
for name, result in results.items():  # the service describes all its models in each result: keep the one it is about
    models = result["service"]["models"]["models"]
    result["service"]["models"] = [{key: m[key] for key in ("name", "version", "sha256", "top_k")} for m in models if m["name"] == name]
pathlib.Path(sys.argv[2]).write_text(json.dumps(results, indent=1) + "\n")
PY
exit $failed
