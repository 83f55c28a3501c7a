#!/usr/bin/env python3
"""The steps of "Content that changes" in server/IOS.md: steps.py SERVER DIRECTORY [--verify] PACK...

Installs or updates each pack in DIRECTORY/PACK/current, and prints the number of archives. For
machines without Swift, and as a reference for ports to other languages.
"""
import hashlib, io, json, os, pathlib, shutil, sys, urllib.error, urllib.parse, urllib.request, zipfile

RECORD = ".longhaul/catalogue.json"


def ask(server, reference, body=None, kind="application/json"):
    """Returns the body of an answer of type `kind`; None for a 404."""
    request = urllib.request.Request(urllib.parse.urljoin(server, reference))
    if body is not None:
        request.data, request.headers = json.dumps(body).encode(), {"Content-type": "application/json"}
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    assert answer.status in (200, 201) and answer.headers.get_content_type() == kind, (answer.status, answer.headers)
    return answer.read()


def digest(path):
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def update(server, root, name, verifying):
    versions, current, following = f"/packs/{name}/versions", root / "current", root / "next"
    newest = json.loads(ask(server, f"{versions}/latest"))                                   # step 1
    if digest(current / RECORD) == newest["catalogue"]["sha256"] and not verifying:
        return 0
    catalogue = ask(server, newest["catalogue"]["url"])                                      # step 2
    assert hashlib.sha256(catalogue).hexdigest() == newest["catalogue"]["sha256"]
    wanted = json.loads(catalogue)["files"]
    assert not any(part in ("", ".", "..") for file in wanted for part in file["path"].split("/"))
    old = json.loads((current / RECORD).read_bytes()) if current.exists() else {"files": []}
    places = {file["sha256"]: file["path"] for file in old["files"]}
    contents, archives, archive = {}, 0, None
    if any(file["sha256"] not in places for file in wanted):                                  # step 3
        since = ask(server, f"{versions}/{newest['version']}/since/{old['version']}") if places else None
        archive = (json.loads(since) if since else newest)["archives"]["zip"]
    while True:
        if archive:                                                                          # steps 4 and 5
            archives += 1
            body = ask(server, archive["url"], kind="application/zip")
            assert len(body) == archive["size"] and archives < 5
            with zipfile.ZipFile(io.BytesIO(body)) as opened:
                contents.update((hashlib.sha256(bytes_).hexdigest(), bytes_) for bytes_ in map(opened.read, opened.namelist()))
        shutil.rmtree(following, ignore_errors=True)                                         # step 6
        missing = []
        for file in wanted:
            copy, sha256 = following / file["path"], file["sha256"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            if sha256 in contents:
                copy.write_bytes(contents[sha256])
            elif sha256 in places and digest(current / places[sha256]) == sha256:
                shutil.copyfile(current / places[sha256], copy)
            else:
                missing.append(file["path"])
                continue
            copy.chmod(0o755 if file.get("executable") else 0o644)
        if not missing:
            break
        rest = ask(server, f"{versions}/{newest['version']}/diff", {"version": newest["version"], "except": missing})   # step 7
        archive = json.loads(rest)["archives"]["zip"]
    (following / RECORD).parent.mkdir(parents=True)
    (following / RECORD).write_bytes(catalogue)
    if current.exists():                                                                     # step 8
        os.rename(current, root / "previous")
    os.rename(following, current)
    shutil.rmtree(root / "previous", ignore_errors=True)
    return archives


if __name__ == "__main__":
    server, directory, *names = sys.argv[1:]
    verifying = names[0] == "--verify"
    for name in names[verifying:]:
        print(name, update(server, pathlib.Path(directory) / name, name, verifying))
