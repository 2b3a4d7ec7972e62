"""Atari games as the Atari-100k benchmark plays them, on ale-py's own ``ALEInterface``.

A step repeats its action for ``frame_skip`` frames and sums their raw rewards. The frame it gives is the maximum of its
last two screens, gray, each resized bilinearly to 84 x 84 first. Observations are stacks of frames, oldest first, with
zeros before a game's first frame.

What differs from the environment of CURL's Atari release:

* A loss of life is only reported (``info["life_lost"]``): the game goes on and the stack is kept. There it ends the
episode, and the "reset" after it plays one
  no-op frame and pushes that screen onto the stack. A life is lost here under the same rule: the count fell and is not
  zero.
* Where a game ends before a step's last frame, the step's frame is the game's last screen. There it is black where the
game ends in the step's first half:
  a truncated game would bootstrap from a black frame.
* The 108,000 frames' end is ``truncated``, not the end of the game.

What differs from Gymnasium's ``AtariPreprocessing``, when set to ``resize = "max-then-area"``:

* its frame at a game's end is made of screens of the step before (it stops before it takes the new ones), ours of the
game's last screens; * it draws 1 to ``noop_max`` no-ops, we draw 0 to ``max_noops``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import numpy.typing as npt

from mcurl.envs.stack import FrameStack, StackStart, check_settings
from mcurl.errors import UserError, suggest

# fmt: off
ATARI_26 = (
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout", "ChopperCommand",
    "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull",
    "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown",
)
# fmt: on
"""The games of the Atari-100k benchmark."""

# ALE ships these ROMs for its two-player interface only; loading one with the interface for one player ends the
# process.
_TWO_PLAYERS_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})

Resize = Literal["bilinear-then-max", "max-then-area"]
LifeLoss = Literal["ends-return", "ignored"]
Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class AtariSettings:
    """Which game, and how its screens become observations. The defaults are data-efficient Rainbow's on Atari 100k."""

    task: str = "RoadRunner"
    """the game, in any spelling: RoadRunner, road_runner, road-runner"""
    frame_skip: int = 4
    """frames per agent step: the action is repeated, rewards are summed"""
    frame_stack: int = 4
    """how many of the last frames an observation holds"""
    image_size: int = 84
    """height and width of a frame in pixels"""
    max_noops: int = 29
    """a game starts after 0 to this many frames without action, drawn uniformly"""
    max_frames: int = 108_000
    """a game is cut off (truncated) after this many frames, no-ops included; 0: never"""
    sticky: float = 0.0
    """probability that a frame repeats the action of the frame before it instead of the new one"""
    full_action_set: bool = False
    """offer all 18 actions instead of those that the game knows"""
    resize: Resize = "bilinear-then-max"
    """resize each of the last two screens bilinearly, then take their maximum (CURL), or take their maximum, then
    average over areas (Gymnasium)"""
    life_loss: LifeLoss = "ends-return"
    """whether losing a life is reported, so that it ends the return that is learned from; the game itself always goes
    on"""

    def __post_init__(self) -> None:
        least = {"frame_skip": 1, "frame_stack": 1, "image_size": 1, "max_noops": 0, "max_frames": 0}
        check_settings(self, least, {"resize": get_args(Resize), "life_loss": get_args(LifeLoss)})
        if not 0 <= self.sticky < 1:
            raise UserError(f"sticky is a probability below 1, not {self.sticky}")


@cache
def _libraries() -> tuple[ModuleType, ModuleType]:
    """ale_py and cv2, imported on first use: both come with an extra, and the settings above must load without them."""
    try:
        import ale_py
        import cv2
    except ImportError as error:
        raise UserError(f"Atari games need ale-py and OpenCV ({error}): pip install 'mcurl[atari]'") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py, cv2


@cache
def _roms() -> dict[str, str]:
    """CamelCase name of each game for one player -> ale-py's name for its ROM."""
    roms = _libraries()[0].roms.get_all_rom_ids()
    return {rom.title().replace("_", ""): rom for rom in sorted(roms) if rom not in _TWO_PLAYERS_ONLY}


def tasks() -> tuple[str, ...]:
    """The names of all games that come with ale-py, such as RoadRunner, sorted. Raises ``UserError`` where ale-py is
    not installed."""
    return tuple(_roms())


def resolve(name: str) -> str:
    """The game's own name for any spelling of it: case, spaces and punctuation don't matter. Raises ``UserError`` for
    an unknown game.

    >>> resolve("road_runner"), resolve("Up 'n Down"), resolve("ms-pacman")
    ('RoadRunner', 'UpNDown', 'MsPacman')
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    for task in tasks():
        if task.lower() == plain:
            return task
    raise UserError(f"there is no Atari game {name!r}: {suggest(plain, tasks())}")


def make(settings: AtariSettings, seed: int) -> AtariEnv:
    """The game that the settings name, seeded. Raises ``UserError`` for an unknown game or where ale-py or OpenCV is
    missing."""
    return AtariEnv(settings, seed)


class AtariEnv(gymnasium.Env[Frame, np.int64]):
    """One game. Observations: uint8 [frame_stack, image_size, image_size], oldest frame first. Rewards: the game's own
    points, neither clipped nor scaled.

    ``info`` holds ``lives`` (int) and ``life_lost`` (bool).
    """

    def __init__(self, settings: AtariSettings, seed: int) -> None:
        self._ale_py, self._cv2 = _libraries()
        self.settings = settings
        self.game = resolve(settings.task)
        size = settings.image_size
        self.frame_shape = (1, size, size)
        self.frame_stack = settings.frame_stack
        self.action_repeat = settings.frame_skip
        self.stack_start: StackStart = "blank"
        self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 60 / settings.frame_skip}

        self._ale = self._ale_py.ALEInterface()
        self._ale.setInt("max_num_frames_per_episode", settings.max_frames)
        # ALE's own sticky actions cannot be restored from a saved state; ours come from ``np_random``.
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._seed(seed)

        chosen = self._ale.getLegalActionSet() if settings.full_action_set else self._ale.getMinimalActionSet()
        self._actions = [int(action.value) for action in chosen]
        self._noop = int(self._ale_py.Action.NOOP.value)
        self.action_space = gymnasium.spaces.Discrete(len(self._actions))
        self.observation_space = gymnasium.spaces.Box(0, 255, (settings.frame_stack, size, size), np.uint8)

        self._screens = np.zeros((2, *self._ale.getScreenDims()), np.uint8)
        self._frame = np.zeros(self.frame_shape, np.uint8)
        self._second = np.zeros((size, size), np.uint8)
        self._stack = FrameStack(self.frame_shape, settings.frame_stack, self.stack_start)
        self._last_action = self._noop
        self._lives = 0
        self._playing = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """A new game: no-ops, then a stack of its current screen after blank frames. Without a seed the generators go
        on from where they are."""
        if seed is not None:
            self._seed(seed)
        self._ale.reset_game()
        for _ in range(self.np_random.integers(self.settings.max_noops + 1)):
            self._ale.act(self._noop)
            if self._ale.game_over():
                self._ale.reset_game()
        self._last_action = self._noop
        self._lives = self._ale.lives()
        self._playing = True
        self._ale.getScreenGrayscale(self._screens[0])
        return self._stack.begin(self._make_frame(screens=1)), self._info(life_lost=False)

    def step(self, action: int | np.int64) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Plays the action for ``frame_skip`` frames, fewer where the game ends.

        ``action`` indexes the action set. ``terminated``: the game is over; ``truncated``: it was cut off at
        ``max_frames``. Raises ``gymnasium.error.ResetNeeded`` where no game is going on.
        """
        if not self._playing:
            raise gymnasium.error.ResetNeeded("the game is over or has not begun: call reset()")
        reward, screens = self._evaluate_policy(self._actions[action])
        observation = self._stack.push(self._make_frame(screens))
        lives = self._ale.lives()
        terminated = bool(self._ale.game_over(with_truncation=False))
        # CURL's rule. The count of some games (Qbert) falls to zero a little before the game is over: that end is
        # reported once, by ``terminated``.
        life_lost = 0 < lives < self._lives and not terminated and self.settings.life_loss == "ends-return"
        self._lives = lives
        truncated = bool(self._ale.game_truncated()) and not terminated
        self._playing = not (terminated or truncated)
        return observation, reward, terminated, truncated, self._info(life_lost)

    def render(self) -> npt.NDArray[np.uint8]:
        """The screen in colour, uint8 [H, W, 3], 210 x 160 for most games. Right after ``load_state_dict`` it is off by
        a frame or two; no observation is."""
        screen: npt.NDArray[np.uint8] = self._ale.getScreenRGB()
        return screen

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the game, and all games after it, depend on.

        The two screens of the last step are not part of it: each step takes its own.
        """
        emulator = self._ale.cloneState(include_rng=True).serialize()
        return {
            "game": self.game,
            "emulator": np.frombuffer(emulator, np.uint8).copy(),
            "generator": self.np_random.bit_generator.state,
            "frames": self._stack.state_dict(),
            "last_action": self._last_action,
            "lives": self._lives,
            "playing": self._playing,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where the state was saved, in this process or another. Raises ``UserError`` where the state
        is another game's or is damaged."""
        if state["game"] != self.game:
            raise UserError(f"the saved state is of {state['game']}, not of {self.game}")
        self._stack.load_state_dict(state["frames"])
        self._restore_emulator(state["emulator"].tobytes())
        self.np_random.bit_generator.state = state["generator"]
        self._last_action = state["last_action"]
        self._lives = state["lives"]
        self._playing = state["playing"]

    def _seed(self, seed: int) -> None:
        """Seeds no-ops, sticky actions and ALE itself, which takes its seed when it loads the ROM."""
        super().reset(seed=seed)
        # ALE takes the time for a seed of -1, hence a positive number.
        self._ale.setInt("random_seed", int(self.np_random.integers(1, 2**31)))
        path = self._ale_py.roms.get_rom_path(_roms()[self.game])
        if self._ale_py.ALEInterface.isSupportedROM(path) is None:
            raise UserError(f"the ROM of {self.game} that ale-py finds is not one that it can play")
        self._ale.loadROM(path)

    def _evaluate_policy(self, action: int) -> tuple[float, int]:
        """Plays ``frame_skip`` frames -> the sum of rewards, and how many (1 or 2) of the last two screens were taken,
        oldest first, into ``_screens``."""
        reward, screens, last = 0, 0, self.settings.frame_skip - 1
        for frame in range(self.settings.frame_skip):
            # As in ALE, every frame of a step draws anew.
            if not (self.settings.sticky and self.np_random.random() < self.settings.sticky):
                self._last_action = action
            reward += self._ale.act(self._last_action)
            over = self._ale.game_over()
            if over or frame >= last - 1:
                self._ale.getScreenGrayscale(self._screens[screens])
                screens += 1
            if over:
                break
        return float(reward), screens

    def _make_frame(self, screens: int) -> Frame:
        """One frame, uint8 [1, image_size, image_size], of the first ``screens`` (1 or 2) of ``_screens``: a buffer
        that the next call overwrites."""
        frame = self._frame[0]
        if self.settings.resize == "max-then-area":
            if screens == 2:
                np.maximum(self._screens[0], self._screens[1], out=self._screens[0])
            self._cv2.resize(self._screens[0], frame.shape, dst=frame, interpolation=self._cv2.INTER_AREA)
            return self._frame
        for screen, resized in zip(self._screens[:screens], (frame, self._second), strict=False):
            self._cv2.resize(screen, frame.shape, dst=resized, interpolation=self._cv2.INTER_LINEAR)
        if screens == 2:
            np.maximum(frame, self._second, out=frame)
        return self._frame

    def _info(self, life_lost: bool) -> dict[str, Any]:
        return {"lives": self._lives, "life_lost": life_lost}

    def _restore_emulator(self, saved: bytes) -> None:
        try:
            state = self._ale_py.ALEState(saved)
            self._ale.restoreState(state)
        except (SystemError, RuntimeError) as error:
            raise UserError(f"the saved state of {self.game} is damaged, or of another version of ale-py") from error
        # ALE's state lacks the picture buffers. Some games (Qbert) leave lines of a picture as they were two pictures
        # ago: draw both buffers once.
        for _ in range(2):
            self._ale.act(self._noop)
        self._ale.restoreState(state)
