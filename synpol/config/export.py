"""Section about an exported network: where it goes, and what others have to know of it."""

from __future__ import annotations

from pydantic import Field

from synpol.config.section import Section
from synpol.config.source import Source


class Person(Section):
    """A person who made the network."""

    name: str = Field(min_length=1, description="name")
    affiliation: str | None = Field(default=None, description="institution")
    orcid: str | None = Field(default=None, description="ORCID iD, such as 0000-0001-2345-6789")
    github_user: str | None = Field(default=None, description="account at GitHub")


class Citation(Section):
    """A text to cite."""

    text: str = Field(min_length=1, description="reference")
    doi: str | None = Field(default=None, description="DOI, such as 10.1000/182")
    url: str | None = Field(default=None, description="URL, where there is no DOI")


class Export(Section):
    """The network in one file, and a package of it for bioimage.io."""

    output: str | None = Field(
        default=None, description="file to write; default: network.safetensors in run_dir"
    )
    package: str | None = Field(
        default=None,
        description="package of bioimage.io to write too, with an ending in .zip; default: none",
    )
    trained_on: list[str] | None = Field(
        default=None,
        description="names of the training volumes for others to read; default: the last part of "
        "each path",
    )
    name: str | None = Field(
        default=None,
        min_length=5,
        max_length=128,
        pattern=r"^[A-Za-z0-9_+\- ()]+$",
        description="name of the package: letters, digits, spaces and _ + - ( )",
    )
    description: str | None = Field(
        default=None, max_length=1024, description="what the network is for, in a sentence or two"
    )
    authors: list[Person] = Field(default=[], description="who made the network")
    license: str | None = Field(
        default=None, description="SPDX identifier of the licence, such as CC-BY-4.0 or MIT"
    )
    cite: list[Citation] = Field(default=[], description="what users shall cite")
    sample: Source | None = Field(
        default=None,
        description="image whose middle becomes the test input and the cover picture, which "
        "everyone can see then; default: generated noise",
    )
