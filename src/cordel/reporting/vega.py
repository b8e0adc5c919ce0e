"""Vega without a network: the scripts that draw charts, as vl-convert bundles them."""

from functools import cache


@cache
def vega_script(version: str) -> str:
    """Return a script that sets ``window.vegaEmbed``, 0.9 MB that can stand inside a page.

    Args:
        version: Of Vega-Lite, one of those that vl-convert has.
    """
    from vl_convert import javascript_bundle  # noqa: PLC0415  (`cordel results` needs none)

    bundle = javascript_bundle("window.vegaEmbed=vegaEmbed;", vl_version=version)
    # A scope of its own: the bundle's short names must not meet the page's.
    return "{" + bundle.replace("</script", "<\\/script") + "}"
