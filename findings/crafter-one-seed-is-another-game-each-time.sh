#!/usr/bin/env bash
# crafter 1.8.3: one seed and one list of actions are another game each time, and another one for each picture size.
#
# Source:    crafter 1.8.3 with numpy 2.4.6, Env(seed=1), an episode in which the player does nothing for 155 steps. All
#            plays are in one process, one after the other. Compared are reward, inventory and semantic map of a step.
# Expected:  seed and actions decide on the game: reset() seeds the generator of the world with the seed and the number
#            of the episode. The size and the number of pictures change nothing in the game.
# Seen:      four plays of one program are not the same game; here, they part in step 10. _balance_object() draws the
#            creature that leaves by its place in a list made of a set, whose order is that of addresses in memory. With
#            that mended in a subclass, the four plays are the same, and a second cause shows: the noise of the night is
#            drawn from the generator of the world, one number for each pixel (LocalView._noise()). So one more
#            render(), a video by Recorder, or pictures of 96 instead of 64 pixels make another game from the first
#            night on. Agents with other picture sizes play other games on the same seeds, and a saved list of actions
#            does not bring an episode back. Reported as danijar/crafter#31 and #36, both open.
# Way out:   the subclass Mended below: it sorts the creatures, and gives the generator back after each picture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check crafter==1.8.3 numpy==2.4.6 imageio==2.38.1 \
    pillow==13.0.0 opensimplex==0.4.5.1 ruamel.yaml==0.19.1
cat > "$folder/seed.py" <<'PYTHON'
import tempfile

import crafter


class Ordered(crafter.Env):
    """The creatures of a part of the world in an order of their own."""

    def _balance_chunk(self, chunk, objs):
        super()._balance_chunk(chunk, sorted(objs, key=lambda creature: tuple(creature.pos)))


class Mended(Ordered):
    """Pictures that use up no random numbers of the game."""

    def render(self, size=None):
        before = self._world.random.get_state()
        picture = super().render(size)
        self._world.random.set_state(before)
        return picture


def played(kind: type[crafter.Env], size: int = 64, pictures: int = 0, video: bool = False) -> list[tuple]:
    """What happens in each step."""
    env, steps = kind(size=(size, size), seed=1), []
    with tempfile.TemporaryDirectory() as directory:
        if video:
            env = crafter.Recorder(env, directory, save_stats=False, save_episode=False)
        env.reset()
        for _ in range(155):
            for _ in range(pictures):
                env.render()
            _, reward, _, info = env.step(0)
            steps.append((reward, info["inventory"], info["semantic"].tolist()))
    return steps


for kind in (crafter.Env, Ordered, Mended):
    first = played(kind)
    print(f"{kind.__name__}, four plays are the same: {all([played(kind) == first for _ in range(3)])}")
    if kind is not crafter.Env:
        for name, options in (("render()", {"pictures": 1}), ("video", {"video": True}), ("96 pixels", {"size": 96})):
            same = [one == two for one, two in zip(first, played(kind, **options), strict=True)]
            print(f"    {name}:", "the same game" if all(same) else f"another game from step {same.index(False) + 1}")
PYTHON
"$folder/venv/bin/python" "$folder/seed.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
Env, four plays are the same: False
Ordered, four plays are the same: True
    render(): another game from step 149
    video: another game from step 149
    96 pixels: another game from step 149
Mended, four plays are the same: True
    render(): the same game
    video: the same game
    96 pixels: the same game
SEEN
