"""`python -m backdoor_assets.commands` is `backdoor-assets`."""

from backdoor_assets.commands.cli import main

main()
