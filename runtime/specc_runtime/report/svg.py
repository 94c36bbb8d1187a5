"""Netron's pictures inside a page: nothing but shapes and text, with ids that no other picture of the page has."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

_SVG = "http://www.w3.org/2000/svg"
_SHAPES = frozenset("svg g defs marker path rect line circle ellipse polygon polyline text tspan title".split())
# Netron's greys as properties of the page, which has others in the dark; colours that mean something stay.
_GREYS = {
    "fill: rgb(255, 255, 255)": "fill: var(--card)",
    "fill: rgb(238, 238, 238)": "fill: var(--end)",
    "fill: rgb(51, 51, 51)": "fill: var(--head)",
    "fill: rgb(0, 0, 0)": "fill: var(--edge)",
    "stroke: rgb(0, 0, 0)": "stroke: var(--edge)",
    "stroke: rgb(51, 51, 51)": "stroke: var(--edge)",
}
COLD = "specc-heat-0"
"""The class of nodes that take next to nothing (`drawn/costs.js`): a grey, too."""
_FILL = re.compile(r"(?<![\w-])fill: [^;]+")
_REFERENCE = re.compile(r"url\(\s*[\"']?#([^)\"']+)[\"']?\s*\)")


def inlined(picture: bytes, prefix: str, label: str) -> Markup:
    """An SVG as an element of HTML: scripts, foreign content, events and links are left out.

    `prefix` goes before every id, `label` is what a screen reader says.
    """
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(picture)
    ground = root.find(f"{{{_SVG}}}rect[@id='background']")
    if ground is not None:
        ground.set("fill", "none")
    _clean(root, prefix)
    root.set("role", "img")
    root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(element: ElementTree.Element, prefix: str) -> None:
    if COLD in element.get("class", "").split():
        for child in element:
            color = "--ink" if child.tag == f"{{{_SVG}}}text" else "--cold"
            child.set("style", _FILL.sub(f"fill: var({color})", child.get("style", "")))
    for name, value in list(element.attrib.items()):
        if name.startswith(("{", "on")) or name in ("href", "class"):
            del element.attrib[name]
        elif name == "id":
            element.set(name, prefix + value)
        elif "url(" in value or name == "style":
            value = _REFERENCE.sub(lambda match: f"url(#{prefix}{match[1]})", value)
            element.set(name, _with_greys(value) if element.tag != f"{{{_SVG}}}text" else value)
    for child in list(element):
        if child.tag.removeprefix(f"{{{_SVG}}}") not in _SHAPES or not child.tag.startswith(f"{{{_SVG}}}"):
            element.remove(child)
        else:
            _clean(child, prefix)


def _with_greys(style: str) -> str:
    for found, instead in _GREYS.items():
        style = style.replace(found, instead)
    return style
