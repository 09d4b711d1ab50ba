#!/usr/bin/env python3
"""Makes a libtorch folder (include/, lib/, share/) out of the wheels that libtorch.txt names; CPU parts only.

    libtorch.py FOLDER

FOLDER appears complete or not at all: everything is unpacked beside it and renamed at the end. A lock file beside it lets
two clones run this at once. Standard library only, and any Python from 3.7 on: the wheels are unpacked, never imported.
"""

import fcntl
import glob
import os
import shutil
import subprocess
import sys
import zipfile

REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libtorch.txt")
# pip takes these tags literally, so every one that the three wheels carry is listed.
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
TORCH_LIBS = ["libc10.so", "libgomp.so.1", "libshm.so", "libtorch.so", "libtorch_cpu.so"]
CUDA_LIBS = ["libcudart.so.13", "libcupti.so.13"]
# pip holds the torch wheel (0.53 GB) twice for a moment; afterwards the wheel and what comes out of it (0.5 GB) lie together.
NEEDED_BYTES = 1_300_000_000


class Failure(Exception):
    """One sentence for the user."""


def say(text):
    print("setup: " + text, flush=True)


def torch_version():
    with open(REQUIREMENTS) as file:
        return next(line.split()[0].split("==")[1] for line in file if line.startswith("torch=="))


def is_complete(folder, version):
    """`build-version` is written last, and is the file in which torch-sys, too, looks for the version."""
    try:
        with open(os.path.join(folder, "build-version")) as file:
            if file.read().strip() != version:
                return False
    except OSError:
        return False
    return all(os.path.isfile(os.path.join(folder, "lib", name)) for name in TORCH_LIBS + CUDA_LIBS)


def check_space(folder):
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise Failure(
            "libtorch needs %.1f GB of free disk under %s, and there is %.1f GB; "
            "free some, or set XDG_CACHE_HOME to a larger disk." % (NEEDED_BYTES / 1e9, folder, free / 1e9)
        )


def download(folder):
    """Wheels for CPython 3.11 whichever Python runs this: only their C++ parts are used."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-cache-dir"]
    command += ["--requirement", REQUIREMENTS, "--dest", folder, "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11", "--abi", "cp311"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    if not sys.stdout.isatty():
        command += ["--progress-bar", "off", "--quiet"]
    # pip's own temporary files belong on the disk whose space was checked; /tmp is often small.
    environment = dict(os.environ, TMPDIR=folder, PIP_REQUIRE_VIRTUALENV="0")
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True
    )
    if done.returncode != 0:
        raise Failure(why_pip_failed(done.stderr))


def why_pip_failed(stderr):
    lines = [line for line in stderr.splitlines() if line.strip()]
    if "No space left on device" in stderr:
        return "the disk filled up while libtorch was being downloaded; free some space and run this again."
    if "DO NOT MATCH THE HASHES" in stderr:
        return (
            "a downloaded wheel is not the one that scripts/libtorch.txt names (its checksum differs); "
            "run this again, or check your package index."
        )
    if any(sign in stderr.lower() for sign in ["connection", "timed out", "temporary failure", "proxyerror"]):
        return (
            "libtorch could not be downloaded: the package index cannot be reached; "
            "check the network connection, or set LIBTORCH to a libtorch that you have."
        )
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["no message"]
    return "pip could not download libtorch: " + errors[-1].replace("ERROR: ", "")


def unpack(wheels, folder):
    """`torch/{include,share,lib}` and the CUDA libraries, laid out as libtorch's own archive is."""
    for path in sorted(wheels):
        with zipfile.ZipFile(path) as wheel:
            for member in wheel.infolist():
                target = place_of(member.filename)
                if target is None or member.is_dir():
                    continue
                target = os.path.join(folder, target)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with wheel.open(member) as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
        os.remove(path)


def place_of(name):
    """Where a file of a wheel goes inside the folder, or None for what a CPU build does not need."""
    if name.startswith(("torch/include/", "torch/share/")):
        return name[len("torch/") :]
    directory, base = os.path.split(name)
    if directory == "torch/lib" and base in TORCH_LIBS or directory == "nvidia/cu13/lib" and base in CUDA_LIBS:
        return "lib/" + base
    return None


def replace(new, folder):
    """An incomplete folder of that name gives way in one moment, since a build may be reading it."""
    old = folder + ".old"
    shutil.rmtree(old, ignore_errors=True)
    if os.path.lexists(folder):
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def make(folder, version):
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        check_space(os.path.dirname(folder))
        os.makedirs(os.path.join(partial, "wheels"))
        download(os.path.join(partial, "wheels"))
        say("unpacking libtorch")
        unpack(glob.glob(os.path.join(partial, "wheels", "*.whl")), partial)
        shutil.rmtree(os.path.join(partial, "wheels"))
        with open(os.path.join(partial, "build-version"), "w") as file:
            file.write(version + "\n")
        if not is_complete(partial, version):
            raise Failure("the wheels in scripts/libtorch.txt lack one of " + ", ".join(TORCH_LIBS + CUDA_LIBS) + ".")
        replace(partial, folder)
    except OSError as error:
        raise Failure("libtorch could not be written to %s: %s." % (folder, error.strerror or error))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main():
    folder = os.path.abspath(sys.argv[1])
    version = torch_version()
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        lock = open(folder + ".lock", "w")
    except OSError as error:
        raise Failure("the cache folder %s cannot be written: %s." % (os.path.dirname(folder), error.strerror))
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another set-up that is making " + folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(folder, version):
            return
        say("libtorch %s -> %s (0.54 GB to download, 0.5 GB on disk)" % (version, folder))
        make(folder, version)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit("setup: error: %s" % failure)
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; nothing was left behind.")
