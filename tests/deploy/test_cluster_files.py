import json
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def test_ray_cluster_yaml_is_valid_against_rays_own_schema_and_checks():
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(prepare_config(json.loads(json.dumps(config))))
    types = config["available_node_types"]
    assert any("GPU" in node["resources"] for node in types.values())
    assert any("GPU" not in node["resources"] and node.get("max_workers", 0) > 0 for node in types.values())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"setup_comands": []}, schema)


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-ingest.yaml"])
def test_kuberay_files_name_one_ray_version_and_both_kinds_of_worker(name):
    import ray

    spec = yaml.safe_load((ROOT / "deploy" / name).read_text())["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["rayVersion"] == ray.__version__
    assert {group["groupName"] for group in cluster["workerGroupSpecs"]} == {"decode", "gpu"}
    containers = [
        group["template"]["spec"]["containers"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "rushes-ray"}
    for own in containers:  # the operator gives the token to these, and to the submitter and the autoscaler
        assert not [one for one in own[0].get("env", ()) if one["name"].startswith("RAY_AUTH")]
    for text in ((ROOT / "deploy" / name).read_text(), (ROOT / "deploy" / "README.md").read_text()):
        assert "kubectl create secret generic rushes-ray --from-literal=auth_token=" in text
    if "entrypoint" in spec:
        assert spec["entrypoint"].startswith("rushes ingest")
