"""DiffusionBlocks' tables. Targets: all, one a table (table_1 …), report, wandb_reports, wandb_sync, data.

`choices` is a table that `all` leaves out.
Scale, seeds and directories are set by `--config`; config/README.md lists every knob.
"""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(workflow.basedir))

from dblocks.errors import UserError, of_system
from dblocks.identity import data_key
from dblocks.plan_files import write_plan
from dblocks.planning import make_plan


container: "envs/dblocks.sif"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/images.smk"
include: "workflow/rules/text.smk"
include: "workflow/rules/run.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/wandb.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        [table_files(table) for table in PLAN.in_all],
        rules.report.output,
        rules.wandb_reports.input,
