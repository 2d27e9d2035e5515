#!/usr/bin/env bash
# The two commands on a fresh Debian 12, first as root, then as an ordinary user without sudo.
#
#   sudo tools/fresh_check.sh [--root FOLDER] [--keep] [--only root|user] [--peers light|all]
#
# debootstrap makes the system in FOLDER (default: a temporary one, removed at the end). apt's and
# pip's configuration, and the files that these point to, are taken from this machine when it runs;
# no host is named here. The checkout's committed state is cloned into the new system; test data is
# copied from $SMHF_TEST_DATA (default: ../shared) when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

root="" keep=0 only="" peers=light
while [ $# -gt 0 ]; do
    case $1 in
        --root) root=$2; shift 2 ;;
        --keep) keep=1; shift ;;
        --only) only=$2; shift 2 ;;
        --peers) peers=$2; shift 2 ;;
        *) sed -n '2,9p' "$0"; exit 2 ;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "fresh_check.sh needs root (debootstrap, chroot)" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install -y debootstrap" >&2; exit 1; }

# Everything below runs in mount and process namespaces of its own: mounts and processes end with it.
if [ -z "${SMHF_FRESH_INSIDE:-}" ]; then
    [ -n "$root" ] || root=$(mktemp -d "${TMPDIR:-/var/tmp}/smhf-fresh-XXXXXX")
    status=0
    arguments=(--root "$root" --peers "$peers")
    [ -z "$only" ] || arguments+=(--only "$only")
    SMHF_FRESH_INSIDE=1 unshare --mount --pid --fork --mount-proc "$0" "${arguments[@]}" || status=$?
    [ "$keep" = 1 ] && echo "kept: $root" || rm -rf --one-file-system "$root"
    exit "$status"
fi

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null | head -n 1)
if [ ! -x "$root/usr/bin/apt-get" ]; then
    echo "== a fresh Debian 12 in $root"
    debootstrap --variant=minbase --include=ca-certificates,make,python3 bookworm "$root" "$mirror" >"$root.log" 2>&1 ||
        { tail -n 20 "$root.log" >&2; exit 1; }
    rm -f "$root.log"
fi

echo "== this machine's apt and pip configuration"
for path in /etc/apt /usr/share/keyrings /etc/resolv.conf /etc/ssl/certs /usr/local/share/ca-certificates /etc/pip.conf /etc/xdg/pip; do
    [ -e "$path" ] || continue
    mkdir -p "$root$(dirname "$path")"
    rm -rf "${root:?}$path"
    cp -aL "$path" "$root$path" 2>/dev/null || cp -a "$path" "$root$path"
done
# Folders that pip's settings name (find-links, file:// indexes) are shown read-only.
settings=$( { env | grep '^PIP_' || true; cat /etc/pip.conf /etc/xdg/pip/pip.conf 2>/dev/null || true; } )
grep -oE '(file://)?/[A-Za-z0-9_./-]+' <<<"$settings" | sed 's#^file://##' | sort -u | while read -r path; do
    top="/$(cut -d/ -f2-3 <<<"$path")"
    if [ -d "$top" ] && [ "${top#/etc}" = "$top" ] && ! mountpoint -q "$root$top"; then
        mkdir -p "$root$top"
        mount --bind "$top" "$root$top"
        mount -o remount,ro,bind "$root$top"
    fi
done
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
passed=$(env | grep -E '^(PIP_|SSL_CERT|CURL_CA_BUNDLE|REQUESTS_CA_BUNDLE|OPENBLAS_|http_proxy|https_proxy|no_proxy)' || true)

data=${SMHF_TEST_DATA:-../shared}
as() { # as USER FOLDER: both commands
    local user=$1 folder=$2
    rm -rf "${root:?}$folder"
    mkdir -p "$root$folder"
    git clone -q --no-hardlinks . "$root$folder/smhf_native"
    [ -d "$data" ] && cp -a "$data" "$root$folder/shared"
    chroot "$root" chown -R "$user" "$folder"
    for command in "make run" "make test PEERS=$peers"; do
        echo "== $user: $command"
        local start=$SECONDS
        # shellcheck disable=SC2086
        env -i $passed PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME="$folder" \
            chroot --userspec="$user" "$root" sh -c "cd $folder/smhf_native && $command"
        echo "== $user: $command took $((SECONDS - start)) s"
    done
    chroot "$root" ls -l "$folder/smhf_native/out"
}
[ "$only" = user ] || as root /root/check
if [ "$only" != root ]; then
    chroot "$root" id tester >/dev/null 2>&1 || chroot "$root" useradd --create-home tester
    as tester /home/tester/check
fi
echo "fresh_check: all done"
