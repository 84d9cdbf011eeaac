import json
import subprocess
import sys

import pytest

from modeling_ser_mtl import cli


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_its_options(command, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main([command, "--help"])
    assert exit_info.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_wrong_command_is_one_line_with_the_nearest(capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["descrbe"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: unknown command 'descrbe'; did you mean describe?\n"


@pytest.mark.parametrize("argv", [["--help"], ["describe", "nowhere.csv"], ["prepare", "emodb", "nowhere"]])
def test_a_command_that_does_not_train_imports_no_trainer(argv) -> None:
    code = (
        "import json, sys\nfrom modeling_ser_mtl import cli\n"
        "try:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\nprint(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, text=True, check=True)
    imported = json.loads(result.stdout.splitlines()[-1])
    assert "modeling_ser_mtl.cli" in imported
    assert {"run_ser_mtl", "datasets", "evaluate", "sklearn", "modeling_ser_mtl.training"}.isdisjoint(imported)
