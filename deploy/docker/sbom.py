#!/usr/bin/env python3
"""Writes an SPDX 2.3 document of an image: Chord's files, the Debian packages, the Python packages that
libraries were taken from.

    sbom.py --dpkg-status FILE --tree /opt/chord --site-packages DIR --name NAME >sbom.spdx.json

SOURCE_DATE_EPOCH sets the time of creation. Standard library only.
"""
import argparse
import datetime
import email.parser
import hashlib
import json
import os
import pathlib
import re
import urllib.parse


def spdx_id(kind, name):
    return f"SPDXRef-{kind}-" + re.sub(r"[^A-Za-z0-9.-]", "-", name)


def debian_packages(status):
    """[(name, version, architecture, source)] of what is installed."""
    out = []
    for block in status.read_text(errors="replace").split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.M))
        if fields.get("Status") == "install ok installed":
            out.append((fields["Package"], fields["Version"], fields["Architecture"],
                        fields.get("Source", fields["Package"]).split(" ")[0]))
    return sorted(out)


def python_packages(site, tree_files):
    """Distributions that own a library which is in the tree, by name and size of the file in their RECORD."""
    out = []
    for metadata in sorted(site.glob("*.dist-info/METADATA")):
        record = metadata.with_name("RECORD")
        owned = {pathlib.PurePath(line.split(",")[0]).name for line in record.read_text().splitlines()} if record.is_file() else set()
        if any(name in owned for name in tree_files if ".so" in name):
            fields = email.parser.HeaderParser().parsestr(metadata.read_text(errors="replace"))
            out.append((fields["Name"], fields["Version"], fields["License-Expression"] or fields["License"] or ""))
    return out


def package(kind, name, version, purl, license_text="", supplier="NOASSERTION"):
    simple = license_text if re.fullmatch(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*", license_text) else ""
    return {
        "SPDXID": spdx_id(kind, f"{name}-{version}"), "name": name, "versionInfo": version,
        "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "supplier": supplier,
        "licenseConcluded": "NOASSERTION", "licenseDeclared": simple or "NOASSERTION", "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}],
    }


def file_entry(path, tree):
    data = hashlib.sha256()
    sha1 = hashlib.sha1()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            data.update(block)
            sha1.update(block)
    name = str(path.relative_to(tree))
    return {"SPDXID": spdx_id("File", name), "fileName": "./" + name,
            "checksums": [{"algorithm": "SHA1", "checksumValue": sha1.hexdigest()},
                          {"algorithm": "SHA256", "checksumValue": data.hexdigest()}],
            "licenseConcluded": "NOASSERTION", "licenseInfoInFiles": ["NOASSERTION"], "copyrightText": "NOASSERTION"}


def document(options):
    paths = sorted(p for p in options.tree.rglob("*") if p.is_file() and not p.is_symlink())
    files = [file_entry(p, options.tree) for p in paths]
    code = hashlib.sha1("".join(sorted(f["checksums"][0]["checksumValue"] for f in files)).encode()).hexdigest()
    chord = {
        **package("Package", "chord", options.version, f"pkg:generic/chord@{options.version}", "Apache-2.0"),
        "filesAnalyzed": True, "packageVerificationCode": {"packageVerificationCodeValue": code},
        "licenseInfoFromFiles": ["NOASSERTION"], "hasFiles": [f["SPDXID"] for f in files],
    }
    quote = urllib.parse.quote
    debian = [package("Debian", name, version,
                      f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={arch}&distro=debian-12&upstream={quote(source)}",
                      supplier="Organization: Debian")
              for name, version, arch, source in debian_packages(options.dpkg_status)]
    python = [package("PyPI", name, version, f"pkg:pypi/{quote(name.lower())}@{version}", license_text)
              for name, version, license_text in python_packages(options.site_packages, {p.name for p in paths})]
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", datetime.datetime.now().timestamp()))
    created = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    parts = [*debian, *python]
    return {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": options.name,
        "documentNamespace": f"urn:chord:sbom:{options.name}:{options.version}:{code}",
        "creationInfo": {"created": created, "creators": ["Tool: chord-sbom"]},
        "packages": [chord, *parts], "files": files,
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": chord["SPDXID"]},
            *({"spdxElementId": chord["SPDXID"], "relationshipType": "DEPENDS_ON", "relatedSpdxElement": p["SPDXID"]}
              for p in parts)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dpkg-status", type=pathlib.Path, required=True)
    parser.add_argument("--tree", type=pathlib.Path, required=True)
    parser.add_argument("--site-packages", type=pathlib.Path, required=True)
    parser.add_argument("--name", default="chord")
    parser.add_argument("--version", default="0.1.0")
    print(json.dumps(document(parser.parse_args()), indent=1))


if __name__ == "__main__":
    main()
