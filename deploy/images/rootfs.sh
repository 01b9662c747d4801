#!/usr/bin/env bash
# Lays out all that an image holds: one program, the libraries it names, certificates of public authorities, and nothing else.
#
#   deploy/images/rootfs.sh [--with-git] BINARY DIR
#
# With --with-git there is git as well, as far as it clones, fetches and pushes over HTTPS. BINARY is the path of a program for this machine; DIR must not exist. What is in DIR belongs to root and is not to be written to, but
# for /data, which is that of uid 65532. There is no shell, no package manager and no program with a set-user-id bit. Scanners of images
# find the versions of the libraries under /var/lib/dpkg/status.d, as in distroless images.
set -euo pipefail

with_git=
if [[ ${1:-} == --with-git ]]; then
    with_git=1
    shift
fi
(($# == 2)) || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
binary=$(realpath "$1")
[[ ! -e $2 ]] || { printf 'error: %s exists\n' "$2" >&2; exit 2; }
umask 022
mkdir -p "$2"
root=$(realpath "$2")
uid=65532

copy() {
    # What the name leads to, under the name that is asked for.
    install -D -m "$1" "$(realpath "$2")" "$root$3"
}

# Name, version and source of the package that a file is from. Debian knows libraries by the path from before /usr was merged.
note() {
    local package
    package=$({ dpkg-query -S "$1" || dpkg-query -S "${1#/usr}" || dpkg-query -S "$(realpath "$1")"; } 2>/dev/null | head -n 1 | cut -d: -f1)
    if [[ -z $package ]]; then
        printf 'error: no package has %s\n' "$1" >&2
        exit 1
    fi
    mkdir -p "$root/var/lib/dpkg/status.d"
    dpkg-query -s "$package" | grep -E '^(Package|Status|Architecture|Source|Version|Maintainer|Description):' >"$root/var/lib/dpkg/status.d/$package"
}

# A program, and the libraries it names: `name => /path (address)`, and the loader as a path alone.
program() {
    copy 0755 "$1" "$2"
    local library
    while read -r library; do
        [[ -e $root$library ]] || { copy 0755 "$library" "$library"; note "$library"; }
    done < <(ldd "$1" | grep -oE '/[^ ]+' | sort -u)
}

program "$binary" "/usr/bin/$(basename "$binary")"
if [[ -n $with_git ]]; then
    program /usr/bin/git /usr/bin/git
    note /usr/bin/git
    core=$(/usr/bin/git --exec-path)
    program "$core/git-remote-http" /usr/lib/git-core/git-remote-http
    mkdir -p "$root/usr/share/git-core/templates"
    # Git starts parts of itself by these names, and no shell.
    ln -s ../../bin/git "$root/usr/lib/git-core/git"
    ln -s git-remote-http "$root/usr/lib/git-core/git-remote-https"
fi

# For webhooks, sinks and sign-in providers: whom to believe on the internet.
copy 0644 /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
note /usr/sbin/update-ca-certificates

mkdir -p "$root/etc"
printf 'root:x:0:0:root:/:/sbin/nologin\nmindos:x:%d:%d:mindos:/data:/sbin/nologin\n' "$uid" "$uid" >"$root/etc/passwd"
printf 'root:x:0:\nmindos:x:%d:\n' "$uid" >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
# Where an engine mounts what it has to.
mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/data"
mkdir -m 1777 "$root/tmp"
chmod 0700 "$root/data"
if ((EUID == 0)); then
    chown "$uid:$uid" "$root/data"
fi
# Not when it was laid out, but when the source was.
if [[ -n ${SOURCE_DATE_EPOCH:-} ]]; then
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
fi
