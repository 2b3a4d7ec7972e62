"""Atari games with the preprocessing of the Atari 100k benchmark, on ale-py's ``ALEInterface``.

A step repeats its action for ``frame_skip`` frames and sums their raw rewards. Its frame is the pixelwise maximum of
the last two screens in grayscale, each resized bilinearly to 84 × 84 first. Observations are stacks of frames, oldest
first, with zeros before the first frame of a game.

Differences from the environment of CURL's Atari release:

* A loss of life is only reported (``info["life_lost"]``); the game and its stack go on. In the release, it ends the
  episode, and the following reset plays a no-op frame and pushes its screen onto the stack. The rule is the same: the
  number of lives decreased, and is not zero.
* If a game ends within a step, the frame of the step is the last screen of the game. In the release it is black if the
  game ends in the first half of the step, so a truncated game would bootstrap from a black frame.
* The limit of 108,000 frames sets ``truncated``, not ``terminated``.

Differences from Gymnasium's ``AtariPreprocessing``, with ``resize = "max-then-area"``:

* If a game ends within a step, the frame is made of the game's last screens. Gymnasium's is made of the screens of the
  step before.
* The number of no-ops is 0 to ``max_noops``. Gymnasium's is 1 to ``noop_max``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import numpy.typing as npt

from mcurl.envs.stack import FrameStack, StackStart, check_action, check_settings
from mcurl.errors import UserError, suggest

# fmt: off
ATARI_26 = (
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout", "ChopperCommand",
    "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull",
    "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown",
)
# fmt: on
"""The games of the Atari-100k benchmark."""

# ALE's one-player interface aborts the process when it loads one of these ROMs.
_TWO_PLAYERS_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})

Resize = Literal["bilinear-then-max", "max-then-area"]
LifeLoss = Literal["ends-return", "ignored"]
Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class AtariSettings:
    """The game and its preprocessing. The defaults are data-efficient Rainbow's on Atari 100k."""

    task: str = "RoadRunner"
    """The game, in any spelling: RoadRunner, road_runner, road-runner."""
    frame_skip: int = 4
    """Frames per agent step; the action is repeated, and the rewards are summed."""
    frame_stack: int = 4
    """Frames in an observation."""
    image_size: int = 84
    """Height and width of a frame in pixels."""
    max_noops: int = 29
    """Largest number of no-op frames at the start of a game, sampled uniformly from 0 on."""
    max_frames: int = 108_000
    """Frames after which a game is truncated, no-ops included; 0: never."""
    sticky: float = 0.0
    """Probability that a frame repeats the action of the frame before (sticky actions)."""
    full_action_set: bool = False
    """Use all 18 actions instead of the minimal set of the game."""
    resize: Resize = "bilinear-then-max"
    """Order of resizing and maximum over the last two screens: bilinear resizing first (CURL), or the maximum first,
    then averaging over areas (Gymnasium)."""
    life_loss: LifeLoss = "ends-return"
    """Whether a loss of life ends the return in learning. The game goes on in either case."""

    def __post_init__(self) -> None:
        minima = {"frame_skip": 1, "frame_stack": 1, "image_size": 1, "max_noops": 0, "max_frames": 0}
        check_settings(self, minima, {"resize": get_args(Resize), "life_loss": get_args(LifeLoss)})
        if not 0 <= self.sticky < 1:
            raise UserError(f"sticky is a probability below 1, not {self.sticky}")


@cache
def _libraries() -> tuple[ModuleType, ModuleType]:
    """ale_py and cv2, imported on first use, because the settings must load without these optional libraries."""
    try:
        import ale_py
        import cv2
    except ImportError as error:
        raise UserError(f"Atari games need ale-py and OpenCV ({error}): pip install 'mcurl[atari]'") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py, cv2


@cache
def _roms() -> dict[str, str]:
    """CamelCase name of each one-player game -> ale-py's name of its ROM."""
    roms = _libraries()[0].roms.get_all_rom_ids()
    return {rom.title().replace("_", ""): rom for rom in sorted(roms) if rom not in _TWO_PLAYERS_ONLY}


def tasks() -> tuple[str, ...]:
    """Names of all games of ale-py, such as RoadRunner, sorted. Raises UserError if ale-py is not installed."""
    return tuple(_roms())


def resolve(name: str) -> str:
    """The canonical name of a game; case, spaces and punctuation of ``name`` are ignored.

    Raises:
        UserError: the game is unknown.

    >>> resolve("road_runner"), resolve("Up 'n Down"), resolve("ms-pacman")
    ('RoadRunner', 'UpNDown', 'MsPacman')
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    for task in tasks():
        if task.lower() == plain:
            return task
    raise UserError(f"there is no Atari game {name!r}: {suggest(plain, tasks())}")


def make(settings: AtariSettings, seed: int) -> AtariEnv:
    """Make the environment. Raises UserError for an unknown game, and if ale-py or OpenCV is not installed."""
    return AtariEnv(settings, seed)


def make_without_pixels(settings: AtariSettings, seed: int) -> AtariEnv:
    """Make the environment without frames: its observations are zeros of one pixel."""
    env = AtariEnv(replace(settings, image_size=1, frame_stack=1), seed)
    env.observes = False
    return env


class AtariEnv(gymnasium.Env[Frame, np.int64]):
    """One Atari game.

    Observations: ``uint8 [frame_stack, image_size, image_size]``, oldest frame first. Actions: Discrete. Rewards: the
    points of the game, neither clipped nor scaled. ``info`` contains ``lives`` (int) and ``life_lost`` (bool).
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
        self.observes = True
        """Whether the screens are read; False: all observations are zeros, and games are the same."""
        self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 60 / settings.frame_skip}

        self._ale = self._ale_py.ALEInterface()
        self._ale.setInt("max_num_frames_per_episode", settings.max_frames)
        # ALE's sticky actions cannot be restored from a saved state; ``_play`` samples them from ``np_random``.
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._seed(seed)

        actions = self._ale.getLegalActionSet() if settings.full_action_set else self._ale.getMinimalActionSet()
        self._actions = [int(action.value) for action in actions]
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
        """Start a game with a random number of no-ops. With ``seed``, the random generators are seeded again first."""
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
        """Play an action for ``frame_skip`` frames, or until the game ends.

        Args:
            action: index into the action set.

        Raises:
            gymnasium.error.ResetNeeded: the game is over or not started.
            gymnasium.error.InvalidAction: it is no index into the action set.
        """
        if not self._playing:
            raise gymnasium.error.ResetNeeded("the game is over or has not begun: call reset()")
        check_action(self.action_space, action)
        reward, screens = self._play(self._actions[action])
        observation = self._stack.push(self._make_frame(screens))
        lives = self._ale.lives()
        terminated = bool(self._ale.game_over(with_truncation=False))
        # CURL's rule. In some games (Qbert) the lives are zero some frames before the game is over; only ``terminated``
        # reports this end.
        life_lost = 0 < lives < self._lives and not terminated and self.settings.life_loss == "ends-return"
        self._lives = lives
        truncated = bool(self._ale.game_truncated()) and not terminated
        self._playing = not (terminated or truncated)
        return observation, reward, terminated, truncated, self._info(life_lost)

    def render(self) -> npt.NDArray[np.uint8]:
        """The screen in colour, ``uint8 [H, W, 3]``, 210 × 160 pixels in most games.

        Directly after ``load_state_dict`` it is one or two frames off; observations are not.
        """
        screen: npt.NDArray[np.uint8] = self._ale.getScreenRGB()
        return screen

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the game and all later games depend on."""
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
        """Restore a state of :meth:`state_dict` exactly, also in another process.

        Raises:
            UserError: the state is of another game, or damaged.
        """
        if state["game"] != self.game:
            raise UserError(f"the saved state is of {state['game']}, not of {self.game}")
        self._stack.load_state_dict(state["frames"])
        self._restore_emulator(state["emulator"].tobytes())
        self.np_random.bit_generator.state = state["generator"]
        self._last_action = state["last_action"]
        self._lives = state["lives"]
        self._playing = state["playing"]

    def _seed(self, seed: int) -> None:
        """Seed the no-ops, the sticky actions and ALE, which reads its seed when it loads the ROM."""
        super().reset(seed=seed)
        # Positive, because ALE uses the current time for a seed of -1.
        self._ale.setInt("random_seed", int(self.np_random.integers(1, 2**31)))
        path = self._ale_py.roms.get_rom_path(_roms()[self.game])
        if self._ale_py.ALEInterface.isSupportedROM(path) is None:
            raise UserError(f"ale-py does not support its ROM of {self.game}: reinstall ale-py")
        self._ale.loadROM(path)

    def _play(self, action: int) -> tuple[float, int]:
        """Play up to ``frame_skip`` frames, and store the last screens in ``_screens``, oldest first.

        Returns:
            The sum of rewards, and the number of stored screens (1 or 2).
        """
        reward, screens, last = 0, 0, self.settings.frame_skip - 1
        for frame in range(self.settings.frame_skip):
            # As in ALE, sticky actions are sampled for each frame.
            if not (self.settings.sticky and self.np_random.random() < self.settings.sticky):
                self._last_action = action
            reward += self._ale.act(self._last_action)
            over = self._ale.game_over()
            if self.observes and (over or frame >= last - 1):
                self._ale.getScreenGrayscale(self._screens[screens])
                screens += 1
            if over:
                break
        return float(reward), screens

    def _make_frame(self, screens: int) -> Frame:
        """Combine the first ``screens`` (1 or 2) of ``_screens`` into a frame, ``uint8 [1, image_size, image_size]``.

        The frame is a buffer that the next call overwrites.
        """
        frame = self._frame[0]
        if not self.observes:
            return self._frame
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
        # ALE's state lacks the two screen buffers, and some games (Qbert) update them only in part: fill both once.
        for _ in range(2):
            self._ale.act(self._noop)
        self._ale.restoreState(state)
