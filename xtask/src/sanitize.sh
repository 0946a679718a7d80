# The kernels' tests under compute-sanitizer: `bash sanitize.sh [RESULTS [TOOL [TEST...]]]`. Without a tool all four run,
# without tests all of `cuda_`. Every array is an allocation of its own, so that reading past its end shows, and so does
# reading what nobody wrote.
set -u
here=$(cd "$(dirname "$0")" && pwd)
results=${1:-$here/results}
tools=${2:-memcheck initcheck synccheck racecheck}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- cuda_
command -v compute-sanitizer > /dev/null || {
    echo "sanitize: compute-sanitizer is not in PATH; it comes with the CUDA toolkit, or with \
\`pip install nvidia-cuda-sanitizer-api\`" >&2
    exit 2
}
mkdir -p "$results"
failed=0
for tool in $tools; do
    log="$results/$tool.log"
    # For synccheck all of a block have to be at one barrier instruction. The warps of scan_forward meet each at its own, as PTX
    # allows (`bar.sync` counts warps), and as the emulator checks.
    except=()
    [ "$tool" != synccheck ] || except=(--kernel-name-exclude kns=scan_forward)
    STATETUNE_CUDA_SEPARATE=1 compute-sanitizer --tool "$tool" "${except[@]}" --error-exitcode 1 --report-api-errors no --launch-timeout 120 \
        "$here/statetune_ssm_kernels" "$@" --test-threads 1 > "$log" 2>&1
    rc=$?
    echo "$tool: exit $rc, $(grep -h '^test result' "$log" | tail -1) $(grep -h 'SUMMARY' "$log" | tail -1)"
    [ $rc -eq 0 ] || failed=1
done
exit $failed
