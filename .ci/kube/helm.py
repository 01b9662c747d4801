#!/usr/bin/env python3
"""Installs a chart, or takes a release away: for tests, where there is no helm but its library.

    helm.py install RELEASE CHART NAMESPACE KUBECONFIG   values are read from standard input, as JSON
    helm.py uninstall RELEASE NAMESPACE KUBECONFIG

Nothing is waited for.
"""

import asyncio
import json
import sys

from helm_sdkpy import Configuration, HelmError, Install, Uninstall


async def main():
    match sys.argv[1:]:
        case ["install", release, chart, namespace, kubeconfig]:
            helm = Configuration(namespace=namespace, kubeconfig=kubeconfig)
            await Install(helm).run(release, chart, values=json.load(sys.stdin), create_namespace=True, wait=False)
        case ["uninstall", release, namespace, kubeconfig]:
            helm = Configuration(namespace=namespace, kubeconfig=kubeconfig)
            await Uninstall(helm).run(release, wait=False)
        case _:
            raise SystemExit(__doc__)


try:
    asyncio.run(main())
except HelmError as error:
    raise SystemExit(f"helm: {error}") from error
