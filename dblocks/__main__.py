import sys

from dblocks.cli import main

sys.exit(main())
