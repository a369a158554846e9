"""Bad input from outside: each case says the exit code and what the one line on stderr names, and nothing may have been created or changed.
Sections: configs, shards, token ids, safetensors files, checkpoints, disks."""

import sys
import unittest

from bad_checkpoints import Checkpoints, Safetensors  # noqa: F401
from bad_configs import Configs  # noqa: F401
from bad_disks import FullDisk, ReadOnly  # noqa: F401
from bad_shards import Shards, TokenIds  # noqa: F401

if __name__ == "__main__":
    program = unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2, exit=False)
    if not program.result.wasSuccessful():
        sys.exit(1)
    sys.exit(4 if program.result.skipped else 0)  # 4: CTest shows it as skipped
