"""Options of `pav run --config=smoke` that leave less to do, for tests of whole recipes."""

# one reward that needs a model
ONE_REWARD = [
    "--config.rewards.entries={'aesthetic': {'path': 'mini:clip'}, 'faithfulness': {}}",
    "--config.rewards.weights={'AES': 1.0}",
    "--config.rewards.thresholds={}",
    "--config.rewards.held_out=()",
    "--config.prefer.weights={'AES': 1.0}",
    "--config.calibrate.weights={'AES': 1.0}",
]
FEW_PROMPTS = [
    "--config.generator.batch_size=4",
    "--config.generator.num_inference_steps=1",
    "--config.evolve.max_prompts=4",
    "--config.prefer.max_prompts=4",
    "--config.evaluate.max_prompts=2",
    "--config.evaluate.num_suffix_prompts=1",
]
# neither generator nor reward is a model; batches smaller than what a stage makes
FAKES = [
    "--config.generator.path=tests.fakes:FakeGenerator",
    "--config.generator.num_inference_steps=None",
    "--config.generator.batch_size=4",
    "--config.evolve.rounds=1",
    "--config.rewards.entries={'fake': {'kind': 'tests.fakes:FakeReward'}}",
    "--config.rewards.weights={'AES': 1.0, 'TVA': 1.0}",
    "--config.rewards.thresholds={}",
    "--config.rewards.held_out=()",
    "--config.prefer.weights={'AES': 1.0, 'TVA': 1.0}",
    "--config.calibrate.weights={'AES': 1.0, 'TVA': 1.0}",
]
